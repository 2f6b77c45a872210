"""Health of versions: what replicas recorded of their requests, looked at version by version."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from llamafarm_ray.errors import NotFoundError, did_you_mean
from llamafarm_ray.registry.state import RegistryState, VersionRecord
from llamafarm_ray.serving.health.detectors import Change
from llamafarm_ray.serving.health.looks import Alarm, Health, Plan
from llamafarm_ray.serving.health.perplexity import QuestionPerplexity
from llamafarm_ray.serving.health.references import References
from llamafarm_ray.serving.health.signals import Difference, quantile
from llamafarm_ray.serving.journal.files import read_journal
from llamafarm_ray.serving.journal.samples import LiveSample
from llamafarm_ray.serving.journal.sketch import Sketch
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelRef

__all__ = [
    "Recorded",
    "SampleScore",
    "VersionHealth",
    "alarm_dict",
    "chosen_versions",
    "health_dict",
    "utc_time",
]


class SampleScore(Protocol):
    """Score of redacted samples."""

    @property
    def value(self) -> float | None:
        """The score; None without samples."""

    @property
    def num_measured(self) -> int:
        """Number of samples."""


@dataclass(frozen=True, slots=True)
class VersionHealth:
    """A version's health.

    Args:
        ref: ``name:version``, or the base's name.
        scores: of its redacted samples, by metric; empty where there are none.
        perplexity: the base model's, of its sampled questions; None where it was not asked for, or has a trouble.
        trouble: the reason why the perplexity could not be measured.
        changes: those that river finds; None where it was not asked.
    """

    ref: str
    aliases: tuple[str, ...]
    health: Health
    scores: Mapping[str, SampleScore] = field(default_factory=dict)
    perplexity: QuestionPerplexity | None = None
    trouble: str = ""
    changes: tuple[Change, ...] | None = None

    @property
    def status(self) -> str:
        """``degraded`` if answers got worse, ``drifted`` if requests differ, else ``stable`` or ``unknown``."""
        if self.health.window is None:
            return "unknown"
        if any(alarm.difference.signal.is_quality for alarm in self.health.current):
            return "degraded"
        return "drifted" if self.health.current else "stable"


@dataclass(frozen=True, slots=True)
class Recorded:
    """Records of all versions.

    Args:
        blocks: sketches by version.
        samples: redacted samples by version.
    """

    blocks: Mapping[str, list[Sketch]]
    samples: Mapping[str, list[LiveSample]]

    @classmethod
    def read(cls, home: Location) -> Self:
        """Read what replicas recorded."""
        blocks: dict[str, list[Sketch]] = defaultdict(list)
        samples: dict[str, list[LiveSample]] = defaultdict(list)
        for page in read_journal(home):
            for ref, found in page.blocks.items():
                blocks[ref] += found
            for sample in page.samples:
                samples[sample.ref].append(sample)
        return cls(dict(blocks), dict(samples))

    def look(self, ref: str, references: References, state: RegistryState, plan: Plan) -> VersionHealth:
        """Return the health of a version, without scores of samples."""
        return VersionHealth(ref, _aliases(state, ref), references.examine(ref, self.blocks[ref], plan))


def chosen_versions(
    resolve: Callable[[ModelRef], VersionRecord], names: Sequence[str], recorded: Sequence[str]
) -> set[str]:
    """Return the recorded versions that names mean.

    Args:
        names: models, versions or aliases.

    Raises:
        NotFoundError: nothing of that name was recorded.
        InputError: a name is no reference.
    """
    chosen: set[str] = set()
    for name in names:
        ref = ModelRef.parse(name)
        wanted = resolve(ref).ref if ref.alias or ref.version else name
        found = {one for one in recorded if wanted in {one, one.partition(":")[0]}}
        if not found:
            hint = did_you_mean(name, [*recorded, *(one.partition(":")[0] for one in recorded)])
            raise NotFoundError(f"No requests to {name!r} are on record.", hint=hint)
        chosen |= found
    return chosen


def _aliases(state: RegistryState, ref: str) -> tuple[str, ...]:
    name, _, version = ref.partition(":")
    model = state.models.get(name)
    return tuple(model.pointing_at(version)) if model is not None and version in model.versions else ()


def health_dict(version: VersionHealth) -> dict[str, object]:
    """Return a version's health as plain values."""
    health = version.health
    return {
        "version": version.ref,
        "aliases": list(version.aliases),
        "status": version.status,
        "requests": health.num_requests,
        "windows": health.num_looks,
        "reference": _sketch_dict(health.reference) | {"is_whole": health.is_reference_whole},
        "window": _sketch_dict(health.window) if health.window is not None else None,
        "signals": [_difference_dict(one) for one in health.latest],
        "alarms": [alarm_dict(alarm) for alarm in health.current],
        "first_alarms": [alarm_dict(alarm) for alarm in health.first],
        "scores": {name: {"value": one.value, "samples": one.num_measured} for name, one in version.scores.items()},
        **({"question_perplexity": version.perplexity.to_dict()} if version.perplexity is not None else {}),
        **({"river": [one.to_dict() for one in version.changes]} if version.changes is not None else {}),
        **({"question_perplexity_trouble": version.trouble} if version.trouble else {}),
    }


def _sketch_dict(sketch: Sketch) -> dict[str, object]:
    if not sketch.num_requests:
        return {"requests": 0}
    histograms = ("prompt_tokens", "answer_tokens", "latency", "wait", "answer_loss")
    return {
        "requests": sketch.num_requests,
        "start": utc_time(sketch.start_s),
        "end": utc_time(sketch.end_s),
        **{
            f"{name}_p{percent}": quantile(getattr(sketch, name), percent / 100)
            for name in histograms
            for percent in (50, 95)
        },
    }


def _difference_dict(difference: Difference) -> dict[str, object]:
    return {
        "signal": difference.signal.name,
        "what": difference.what,
        "share": difference.share,
        "reference_share": difference.reference_share,
        "effect": difference.effect,
        "p_value": difference.p_value,
        "matters": difference.matters,
    }


def alarm_dict(alarm: Alarm) -> dict[str, object]:
    """Return an alarm as plain values."""
    times = {"start": utc_time(alarm.start_s), "end": utc_time(alarm.end_s)}
    return {**_difference_dict(alarm.difference), **times, "limit": alarm.limit, "requests_later": alarm.num_later}


def utc_time(seconds: float) -> str:
    """Return a time in seconds since 1970 as ISO 8601, UTC."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
