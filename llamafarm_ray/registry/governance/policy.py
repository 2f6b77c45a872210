"""Policy of an alias: conditions that a version must meet before the alias may point at it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from llamafarm_ray.config.goals import ByVerdict, Goal, GoalField, NoWorse
from llamafarm_ray.config.values import Comparison
from llamafarm_ray.registry.governance.results import (
    MEASURED_ALIKE,
    UNDECIDABLE,
    metric_value,
    result_digests,
    result_value,
    result_verdict,
)

__all__ = ["Candidate", "Policy", "Violation", "flat_metrics", "license_violations", "metric_value", "violations"]


class Policy(BaseModel):
    """The rules of an alias. An empty policy forbids nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: dict[str, GoalField] = Field(
        default_factory=dict,
        description="Evaluation results it must reach, by name: '>0.7', 'no worse than production', or "
        "'not significantly worse than production'.",
    )
    licenses: tuple[str, ...] = Field(default=(), description="SPDX ids it may have; empty: any.")
    signed_by: tuple[str, ...] = Field(
        default=(), description="Digests of the public keys of which one must have signed it."
    )
    approvals: int = Field(default=0, ge=0, le=100, description="Approvals that it needs, besides the promoter.")

    @property
    def is_empty(self) -> bool:
        """True if it forbids nothing."""
        return self == Policy()


class Candidate(Protocol):
    """Facts about a version that the rules read."""

    @property
    def ref(self) -> str:
        """``name:version``."""

    @property
    def metrics(self) -> Mapping[str, object]:
        """All evaluation results."""

    @property
    def license(self) -> str:
        """SPDX id."""

    @property
    def signers(self) -> Collection[str]:
        """Digests of the public keys that signed it."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a version does not fulfil, with the values on both sides."""

    rule: str
    message: str


def violations(
    policy: Policy,
    candidate: Candidate,
    *,
    promoter: str,
    approvers: Collection[str],
    version_at: Callable[[str], Candidate | None] = lambda _: None,
) -> list[Violation]:
    """Return the reasons against a promotion; empty where there are none.

    Args:
        policy: the alias's rules.
        promoter: caller; their own approval does not count.
        approvers: principals that approved.
        version_at: gives what an alias of the same model points at, for goals that compare with it.
    """
    found = []
    for name, goal in policy.metrics.items():
        message = _metric_violation(name, goal, candidate, version_at)
        if message is not None:
            found.append(Violation("metrics", message))
    if policy.licenses and not _is_allowed(candidate.license, policy.licenses):
        allowed = ", ".join(policy.licenses)
        found.append(
            Violation("licenses", f"its licence must be one of {allowed}, and is {candidate.license or 'not given'}")
        )
    if policy.signed_by and not set(policy.signed_by).intersection(candidate.signers):
        keys = ", ".join(key[7:19] for key in policy.signed_by)
        found.append(Violation("signed_by", f"it must be signed with a key of {keys}, and is not"))
    others = sorted(set(approvers) - {promoter})
    if len(others) < policy.approvals:
        given = f"{len(others)} ({', '.join(others)})" if others else "none"
        found.append(Violation("approvals", f"{_others(policy.approvals)} must approve, and {given} did"))
    return found


def _metric_violation(
    name: str, goal: Goal, candidate: Candidate, version_at: Callable[[str], Candidate | None]
) -> str | None:
    value = result_value(candidate.metrics, name)
    if value is None:
        return f"{name} must be {goal}, and was not measured"
    if isinstance(goal, Comparison):
        return None if goal.holds(value) else f"{name} must be {goal}, and is {value:g}"
    other = version_at(goal.alias)
    if other is None or other.ref == candidate.ref:
        return None
    if isinstance(goal, ByVerdict):
        return _undecided(name, goal, candidate, other)
    return _lost(name, goal, value, candidate, other)


def _undecided(name: str, goal: ByVerdict, candidate: Candidate, other: Candidate) -> str | None:
    """Say that a comparison with another version does not give the verdict of a goal; None if it does."""
    verdict, compared_with = result_verdict(candidate.metrics, name)
    if compared_with != other.ref:
        return (
            f"{name} must be {goal}, and was not compared with {other.ref}: evaluate {candidate.ref} with "
            f"--baseline {other.ref}"
        )
    if not verdict:
        return (
            f"{name} must be {goal}, and its comparison with {other.ref} has no verdict: a score of a whole set, such "
            "as BLEU, has none, nor has one that is the same for every model. Ask for 'no worse than', or another score"
        )
    if verdict == UNDECIDABLE:
        return f"{name} must be {goal}, and was compared on examples of too few documents to find a difference"
    if verdict in goal.verdicts:
        return None
    return f"{name} must be {goal}, and the verdict of its comparison with {other.ref} is {verdict!r}"


def _lost(name: str, goal: NoWorse, value: float, candidate: Candidate, other: Candidate) -> str | None:
    """Return a candidate's losses against another version in words; None if it loses nothing."""
    theirs = result_value(other.metrics, name)
    if theirs is None:
        return f"{name} must be {goal}, and was not measured of {other.ref}"
    if reason := _unlike(name, candidate, other):
        return f"{name} must be {goal}, and {reason}"
    if goal.holds(name, value, theirs):
        return None
    return f"{name} must be {goal}, and is {value:g} where {other.ref} has {theirs:g}"


def _unlike(name: str, candidate: Candidate, other: Candidate) -> str | None:
    """Say that two versions' numbers are of different measurements; None if they may be compared."""
    ours, others = result_digests(candidate.metrics, name), result_digests(other.metrics, name)
    for ref, known, counterpart in ((candidate.ref, ours, others), (other.ref, others, ours)):
        if counterpart and not known:
            return f"how it was measured of {ref} is not recorded: evaluate {ref} again"
    differing = [part for part in MEASURED_ALIKE if ours.get(part, "") != others.get(part, "")]
    if not differing:
        return None
    if "backend" in differing:
        engines = [known.get("backend") or "an engine that is not recorded" for known in (ours, others)]
        return f"was measured on {engines[0]} where {other.ref} was measured on {engines[1]}"
    return (
        f"was measured with different {' and '.join(differing)} than {other.ref}: evaluate both alike, or "
        f"{candidate.ref} with --baseline {other.ref} for a rule 'not significantly worse than'"
    )


def license_violations(policy: Policy, licenses: Mapping[str, str]) -> list[Violation]:
    """Return a violation for each licence that the rules don't let through.

    Args:
        licenses: SPDX ids by their source.
    """
    allowed = ", ".join(policy.licenses)
    return [
        Violation("licenses", f"{whose} must have one of the licences {allowed}, and has {licenses[whose]}")
        for whose in sorted(licenses)
        if policy.licenses and not _is_allowed(licenses[whose], policy.licenses)
    ]


def _is_allowed(license_: str, allowed: Sequence[str]) -> bool:
    """Return True if each part of an SPDX expression of ANDs is allowed; ids are equal in upper and lower case."""
    ids = {one.casefold() for one in allowed}
    return all(part.strip().casefold() in ids for part in license_.split(" AND "))


def _others(count: int) -> str:
    return "another principal" if count == 1 else f"{count} other principals"


def flat_metrics(metrics: Mapping[str, object], prefix: str = "") -> dict[str, float]:
    """All numbers among evaluation results by dotted name, as promotion policies call them."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= flat_metrics(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = float(value)
    return found
