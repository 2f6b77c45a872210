"""Rollout of a new version in place of the one that an alias points at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from llamafarm_ray.config.goals import GoalField
from llamafarm_ray.config.sections.base import Mistake, Section, Unused, as_tuple, section
from llamafarm_ray.config.values import FrozenMapping

__all__ = ["Rollout", "RolloutGuards", "RolloutKind"]

RolloutKind = Literal["blue_green", "canary", "ab", "shadow"]

Percents = Annotated[
    tuple[Annotated[float, Field(gt=0, le=100)], ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=100)
]
_BY_RATIO: Final = ("guards.max_error_ratio", "guards.max_latency_ratio")
_KEYS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "canary": ("steps", "dwell_s"),
    "blue_green": ("dwell_s",),
    "ab": ("percent", "metric", "confidence", "max_requests"),
    "shadow": ("percent", "dwell_s"),
}
"""The keys that not every kind has, by kind."""


class RolloutGuards(Section):
    """Guards that end a rollout in favour of the present version; null switches a guard off."""

    max_error_rate: float | None = Field(
        default=None, gt=0, lt=1, description="Share of its requests that may fail; blue_green: 0.05 if unset."
    )
    max_error_ratio: float | None = Field(
        default=1.5, ge=1, le=1000, description="Largest ratio of its odds of failing to the other version's."
    )
    max_latency_ratio: float | None = Field(
        default=1.5,
        ge=1,
        le=1000,
        description="Largest ratio of its 95th percentile of latency to the other version's.",
    )
    min_feedback: float | None = Field(
        default=None, gt=0, lt=1, description="Mean rating, 0 to 1, that users must give its answers."
    )
    metrics: Annotated[Mapping[str, GoalField], AfterValidator(FrozenMapping)] = Field(
        default_factory=FrozenMapping,
        description="Evaluation results it must have, by dotted name: '>0.7', 'no worse than production', or "
        "'not significantly worse than production'.",
    )
    confidence: float = Field(
        default=0.99, ge=0.5, lt=1, description="Confidence that a guard is broken, over the whole rollout."
    )


class Rollout(Section):
    """Rollout of a new version: its share of requests, its duration, and the guards that send it back."""

    kind: RolloutKind = Field(
        default="canary",
        description="More and more requests, all at once, a fixed split, or copies whose answers are dropped.",
    )
    steps: Percents = Field(default=(5, 25, 50), description="canary: percent of the requests, step by step.")
    percent: float = Field(default=50, gt=0, le=100, description="ab, shadow: percent of the requests.")
    dwell_s: float = Field(default=600, ge=0, le=366 * 86400, description="Shortest time of each step, in seconds.")
    min_requests: int = Field(
        default=100, ge=1, le=10**9, description="Requests it must have answered at each step before it is judged good."
    )
    sticky_by: Literal["user", "session"] = Field(
        default="user", description="Whose requests all go to the same version: the OpenAI user's, or a session's."
    )
    metric: Literal["feedback", "error_rate", "latency"] = Field(default="feedback", description="ab: what decides.")
    confidence: float = Field(
        default=0.95,
        ge=0.5,
        lt=1,
        description="ab: how sure it must be which version is better, at all looks together.",
    )
    max_requests: int = Field(
        default=100_000,
        ge=2,
        le=10**12,
        description="ab: requests of both versions after which it ends without a winner.",
    )
    automatic: bool | None = Field(default=None, description="Promote without a command; unset: yes, but not shadow.")
    guards: RolloutGuards = section(RolloutGuards, "Conditions that end it in favor of the current version.")

    def mistakes(self) -> Iterator[Mistake]:
        """Steps rise, a split has two sides, and enough requests are let through to tell."""
        if self.kind == "canary" and list(self.steps) != sorted(set(self.steps)):
            yield Mistake(("steps",), f"must rise, and are {', '.join(f'{step:g}' for step in self.steps)}.")
        if self.kind == "ab" and self.percent == 100:
            yield Mistake(("percent",), "is 100, which leaves nothing to compare with.")
        if self.kind == "ab" and self.max_requests < 2 * self.min_requests:
            yield Mistake(
                ("max_requests", "min_requests"),
                f"is {self.max_requests}, too few for {{1}}, which is {self.min_requests} for each version.",
            )

    def unused(self) -> Mapping[str, Unused]:
        """Return the keys of other kinds of rollout; blue-green also has nothing to compare with."""
        of_others = {key for keys in _KEYS_OF.values() for key in keys} - set(_KEYS_OF[self.kind])
        if self.kind == "blue_green":
            of_others.update(_BY_RATIO)
        return {
            key: Unused("kind", f"has no effect with {{1}} {self.kind}; remove it, or choose another kind.")
            for key in sorted(of_others)
        }
