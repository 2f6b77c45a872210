"""Signals of health: which shares of two sketches are compared, and how much they must differ to matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from llamafarm_ray.serving.health.exact import shares_differ
from llamafarm_ray.serving.journal.sketch import Sketch, bucket_end
from llamafarm_ray.serving.journal.topics import NUM_SIGNS

__all__ = ["SIGNALS", "Difference", "Signal", "Table", "compare", "quantile"]

Counts = npt.NDArray[np.float64]

_QUANTILES: Final = tuple(range(10, 100, 10))
_MAX_LANGUAGES: Final = 12


@dataclass(frozen=True, slots=True)
class Table:
    """Shares of two samples, several of each.

    Args:
        names: names of the shares, shape ``(k,)``.
        counts: number of the sample that have it, shape ``(k,)``.
        total: size of the sample.
        reference_counts: number of the reference that have it.
        reference_total: size of the reference.
    """

    names: tuple[str, ...]
    counts: Counts
    total: int
    reference_counts: Counts
    reference_total: int


@dataclass(frozen=True, slots=True)
class Signal:
    """One thing that is watched.

    Args:
        says: its name for people.
        table: makes the shares of a sample and a reference.
        num_tests: the most shares that this makes; the correction counts them all.
        least_effect: difference of two shares that matters.
        one_sided: True if only a higher share matters.
        is_quality: True if a difference means worse answers, and not only other requests.
        is_histogram: True if quantiles describe it.
    """

    name: str
    says: str
    table: Callable[[Sketch, Sketch], Table]
    num_tests: int
    least_effect: float
    one_sided: bool = False
    is_quality: bool = False
    is_histogram: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """A signal of a sample beside a reference's.

    Args:
        what: the share that differs most, such as a language.
        share: of the sample.
        reference_share: of the reference.
        p_value: of that difference, corrected for the signal's other shares; 1 if the effect is too small to test.
        total: size of the sample.
    """

    signal: Signal
    what: str
    share: float
    reference_share: float
    p_value: float
    total: int

    @property
    def effect(self) -> float:
        """The share less the reference's."""
        return self.share - self.reference_share

    @property
    def matters(self) -> bool:
        """True if the effect is large enough, regardless of chance."""
        effect = self.effect if self.signal.one_sided else abs(self.effect)
        return effect >= self.signal.least_effect


def compare(signal: Signal, sample: Sketch, reference: Sketch) -> Difference | None:
    """Return the largest difference of a signal; None if either has nothing of it."""
    table = signal.table(sample, reference)
    if not table.total or not table.reference_total or not table.names:
        return None
    shares, others = table.counts / table.total, table.reference_counts / table.reference_total
    effects = shares - others if signal.one_sided else np.abs(shares - others)
    at = int(np.argmax(effects))
    p_value = 1.0
    if effects[at] >= signal.least_effect:
        tested = shares_differ(
            table.counts[at : at + 1],
            table.total,
            table.reference_counts[at : at + 1],
            table.reference_total,
            one_sided=signal.one_sided,
        )
        p_value = min(1.0, float(tested[0]) * signal.num_tests)
    return Difference(signal, table.names[at], float(shares[at]), float(others[at]), p_value, table.total)


def quantile(histogram: Mapping[int, int], share: float) -> float | None:
    """Return the number that a share (0 to 1) of a histogram's values does not exceed; None if there are none."""
    wanted, seen = share * sum(histogram.values()), 0
    for number in sorted(histogram):
        seen += histogram[number]
        if seen >= wanted:
            return bucket_end(number)
    return None


def _share(count: str, total: str) -> Callable[[Sketch, Sketch], Table]:
    def table(sample: Sketch, reference: Sketch) -> Table:
        counts, others = (np.array([getattr(one, count)], dtype=float) for one in (sample, reference))
        return Table((count,), counts, getattr(sample, total), others, getattr(reference, total))

    return table


def _languages(sample: Sketch, reference: Sketch) -> Table:
    both = [name for name, _ in (sample.languages + reference.languages).most_common(_MAX_LANGUAGES)]
    counts, others = (np.array([one.languages[name] for name in both], dtype=float) for one in (sample, reference))
    return Table(tuple(both), counts, sample.languages.total(), others, reference.languages.total())


def _signs(sample: Sketch, reference: Sketch) -> Table:
    names = tuple(f"sign {number}" for number in range(NUM_SIGNS))
    counts, others = sample.signs.astype(float), reference.signs.astype(float)
    return Table(names, counts, sample.num_signed, others, reference.num_signed)


def _above(histogram: str, unit: str) -> Callable[[Sketch, Sketch], Table]:
    """Compare the shares above the deciles of both samples together, which say nothing of either alone."""

    def table(sample: Sketch, reference: Sketch) -> Table:
        ours: Counter[int] = getattr(sample, histogram)
        theirs: Counter[int] = getattr(reference, histogram)
        cuts = sorted(set(_cuts(ours + theirs)))
        counts, others = (
            np.array([sum(count for number, count in one.items() if number > cut) for cut in cuts], dtype=float)
            for one in (ours, theirs)
        )
        names = tuple(f"above {bucket_end(cut):.3g} {unit}" for cut in cuts)
        return Table(names, counts, ours.total(), others, theirs.total())

    return table


def _cuts(histogram: Counter[int]) -> list[int]:
    """Return the buckets with the deciles."""
    total, seen, cuts = histogram.total(), 0, []
    wanted = [total * percent / 100 for percent in _QUANTILES]
    for number in sorted(histogram):
        seen += histogram[number]
        while wanted and seen >= wanted[0]:
            cuts.append(number)
            wanted.pop(0)
    return cuts


SIGNALS: Final = (
    Signal("failed", "failures", _share("num_failed", "num_requests"), 1, 0.02, one_sided=True, is_quality=True),
    Signal("empty", "empty answers", _share("num_empty", "num_checked"), 1, 0.02, one_sided=True, is_quality=True),
    Signal("declined", "refusals", _share("num_declined", "num_checked"), 1, 0.05, is_quality=True),
    Signal("disliked", "bad ratings", _share("num_disliked", "num_rated"), 1, 0.1, one_sided=True, is_quality=True),
    Signal("latency", "latency", _above("latency", "s"), 9, 0.2, one_sided=True, is_quality=True, is_histogram=True),
    Signal("wait", "waiting for a turn", _above("wait", "s"), 9, 0.2, one_sided=True, is_histogram=True),
    Signal("answer_tokens", "length of answers", _above("answer_tokens", "tokens"), 9, 0.2, is_histogram=True),
    Signal("prompt_tokens", "length of prompts", _above("prompt_tokens", "tokens"), 9, 0.2, is_histogram=True),
    Signal("answer_loss", "loss of answers", _above("answer_loss", "nats a token"), 9, 0.2, is_histogram=True),
    Signal("language", "language", _languages, _MAX_LANGUAGES, 0.1),
    Signal("topic", "topic", _signs, NUM_SIGNS, 0.15),
)
"""All there are."""
