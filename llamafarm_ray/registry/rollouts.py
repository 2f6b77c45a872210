"""Plan of a rollout: the candidate's share of traffic, the duration, and the guards that end it.

A rollout belongs to an alias of a model. The alias stays at the baseline until the rollout is promoted; meanwhile
requests to the alias are split as the plan says.

Plans are kept in the log: a field that is added later needs a default.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llamafarm_ray.config.goals import GoalField

__all__ = [
    "AbPlan",
    "BlueGreenPlan",
    "CanaryPlan",
    "Guards",
    "Plan",
    "RolloutStatus",
    "ShadowPlan",
    "Step",
    "StickyBy",
]

StickyBy = Literal["user", "session"]
"""Stickiness of variants: by ``user`` of the OpenAI API, or by session."""

Percent = Annotated[float, Field(gt=0, le=100)]
Probability = Annotated[float, Field(gt=0, lt=1)]
_MAX_DWELL_S = 366 * 86400
_MAX_STEPS = 100


class RolloutStatus(enum.StrEnum):
    """Status of a rollout. The last three are final."""

    RUNNING = "running"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"

    @property
    def is_under_way(self) -> bool:
        """True while requests are split."""
        return self in {RolloutStatus.RUNNING, RolloutStatus.PAUSED}

    @property
    def words(self) -> str:
        """The same for people."""
        return self.replace("_", " ")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Guards(_Value):
    """Guards that end a rollout in the baseline's favour. A guard that is not set has no effect."""

    max_error_rate: Probability | None = Field(
        default=None, description="Share of the candidate's requests that may fail, whatever the baseline does."
    )
    max_error_ratio: float | None = Field(
        default=None, ge=1, le=1000, description="Largest ratio of the candidate's odds of failing to the baseline's."
    )
    max_latency_ratio: float | None = Field(
        default=None, ge=1, le=1000, description="Largest ratio of its 95th percentile latency to the baseline's."
    )
    min_feedback: Probability | None = Field(
        default=None, description="Mean rating (0 to 1) that users must give the candidate's answers."
    )
    metrics: dict[str, GoalField] = Field(
        default_factory=dict,
        description="Evaluation results it must have, by dotted name: '>0.7', 'no worse than production', or "
        "'not significantly worse than production'.",
    )
    confidence: float = Field(
        default=0.99, ge=0.5, lt=1, description="Confidence that a guard is broken, over the whole rollout."
    )


class Step(_Value):
    """A share of the traffic, and how long it is kept at least."""

    percent: Percent
    dwell_s: float = Field(ge=0, le=_MAX_DWELL_S)


class _Plan(_Value):
    guards: Guards = Guards()
    sticky_by: StickyBy = "user"
    min_requests: int = Field(
        default=100, ge=1, le=10**9, description="Requests the candidate must have answered before it is judged good."
    )
    automatic: bool = Field(default=True, description="True if it is promoted without a command.")


class _Stepwise(_Plan):
    steps: tuple[Step, ...] = Field(min_length=1, max_length=_MAX_STEPS)

    @model_validator(mode="after")
    def _check_steps_rise(self) -> _Stepwise:
        percents = [step.percent for step in self.steps]
        if percents != sorted(set(percents)):
            raise ValueError(f"the steps must rise, and are {', '.join(f'{percent:g} %' for percent in percents)}")
        return self


class CanaryPlan(_Stepwise):
    """A growing share of the traffic, step by step. At 100 % no guard with a ratio has a baseline to compare with."""

    kind: Literal["canary"] = "canary"


class BlueGreenPlan(_Stepwise):
    """All traffic at once, and back at once if it fails within the dwell.

    No baseline runs beside it, so only guards that need none can hold it: the error rate must be bounded.
    """

    kind: Literal["blue_green"] = "blue_green"

    @model_validator(mode="after")
    def _check_blue_green(self) -> BlueGreenPlan:
        if [step.percent for step in self.steps] != [100]:
            raise ValueError("a blue-green rollout has one step, of 100 %")
        if self.guards.max_error_rate is None:
            raise ValueError("a blue-green rollout has no baseline to compare with: set guards.max_error_rate")
        if self.guards.max_error_ratio is not None or self.guards.max_latency_ratio is not None:
            raise ValueError("a blue-green rollout has no baseline to compare with: leave guards with a ratio out")
        return self


class AbPlan(_Plan):
    """A fixed split until one variant is known to be better, or ``max_requests`` were not enough to tell."""

    kind: Literal["ab"] = "ab"
    percent: float = Field(default=50, gt=0, lt=100)
    metric: Literal["feedback", "error_rate", "latency"] = "feedback"
    confidence: float = Field(default=0.95, ge=0.5, lt=1, description="Confidence that one variant is better.")
    max_requests: int = Field(default=100_000, ge=1, description="Requests of both variants after which it ends.")

    @model_validator(mode="after")
    def _check_sizes(self) -> AbPlan:
        if self.max_requests < 2 * self.min_requests:
            raise ValueError(
                f"max_requests is {self.max_requests}, which leaves less than min_requests ({self.min_requests}) each"
            )
        return self


class ShadowPlan(_Plan):
    """The baseline answers; a share of its requests is sent to the candidate too, whose answers are dropped."""

    kind: Literal["shadow"] = "shadow"
    percent: Percent = 100
    dwell_s: float = Field(default=0, ge=0, le=_MAX_DWELL_S)
    automatic: bool = False


Plan = Annotated[CanaryPlan | BlueGreenPlan | AbPlan | ShadowPlan, Field(discriminator="kind")]
