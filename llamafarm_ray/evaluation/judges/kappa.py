"""Agreement of two raters beyond chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from llamafarm_ray.evaluation.comparison import wilson_interval

__all__ = ["Agreement", "cohens_kappa"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of a judge with people.

    Args:
        kappa: 1 for full agreement, 0 for what chance gives.
        low: lower end of the 95 % interval.
        high: upper end.
        num_labels: items that both judged.
    """

    kappa: float
    low: float
    high: float
    num_labels: int


def cohens_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> Agreement | None:
    """Return Cohen's kappa of the classes that two raters gave; None without items, or where both gave one class alone.

    Source: Cohen, 1960 (https://doi.org/10.1177/001316446002000104), with agreement by chance taken as known, as in its
    standard error, and Wilson's interval of the observed agreement: full agreement on few items is not certain.
    """
    count = len(pairs)
    if not count:
        return None
    observed = sum(one == other for one, other in pairs) / count
    ones, others = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    expected = sum(number * others[name] for name, number in ones.items()) / count**2
    if expected == 1:
        return None
    low, high = ((share - expected) / (1 - expected) for share in wilson_interval(observed, count))
    return Agreement((observed - expected) / (1 - expected), max(-1.0, low), min(1.0, high), count)
