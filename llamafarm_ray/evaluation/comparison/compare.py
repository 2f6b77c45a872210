"""A model against a baseline: by how much it differs, how sure that is, and what would decide it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal, TypeVar

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.comparison.exact import holm, mcnemar
from llamafarm_ray.evaluation.comparison.resampling import RESAMPLES, Clusters, interval_of, sign_test

__all__ = ["Comparison", "Difference", "PairedScores", "Verdict", "compare", "corrected", "differences"]

_Key = TypeVar("_Key", bound=Hashable)
Verdict = Literal["better", "worse", "noise"]

_LEVEL = 0.05
_POWER = 0.8
_FEW = 2
_MAX_EXAMPLES = 10**9


@dataclass(frozen=True, slots=True)
class PairedScores:
    """Scores of both models on the same examples.

    Args:
        model: score of each example.
        baseline: likewise, in the same order.
        clusters: the document of each example; an example without one is a cluster of its own. If all come from one
            document, each is a cluster of its own, and the result holds for that document alone.
        higher_is_better: direction of the score.
        weights: weight of each example in the mean; None: 1 each.
    """

    model: Sequence[float]
    baseline: Sequence[float]
    clusters: Sequence[Hashable | None]
    higher_is_better: bool = True
    weights: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of one metric, model minus baseline.

    Args:
        low: lower end of its 95 % interval; None if it can't be known.
        high: upper end, likewise.
        p_value: chance of a difference as large where there is none, corrected for the number of metrics.
        verdict: ``better`` or ``worse``, or ``noise`` where chance explains the difference.
        num_examples: examples that both answered.
        num_clusters: documents that they come from.
        num_better: for right and wrong: examples that the model alone has right.
        num_worse: likewise the baseline.
        mcnemar_p: for right and wrong: p-value of McNemar's exact test, which takes all examples as independent.
        least_p_value: smallest that ``p_value`` could be with so few documents, corrected likewise. At 5 % or above
            no verdict but ``noise`` is possible.
        examples_needed: about how many examples would decide a difference of this size four times in five; None if it
            is decided, or there is no difference.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float
    verdict: Verdict
    num_examples: int
    num_clusters: int
    num_better: int | None = None
    num_worse: int | None = None
    mcnemar_p: float | None = None
    least_p_value: float | None = None
    examples_needed: int | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the values that are known, for JSON."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of one metric before it is corrected for the number of metrics.

    Args:
        comparison: the comparison of this metric alone; its verdict is open.
        higher_is_better: direction of the score.
    """

    comparison: Comparison
    higher_is_better: bool


def compare(
    metrics: Mapping[_Key, PairedScores], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[_Key, Comparison]:
    """Compare a model with a baseline in several metrics at once.

    A difference counts as real if its interval excludes zero and its p-value, corrected by Holm's method for the
    number of metrics, is below 5 %. For right and wrong answers McNemar's exact test has to agree.

    Args:
        metrics: paired scores by name.
        resamples: draws of the bootstrap and of the sign test.
        seed: of the draws; the same gives the same result.

    Raises:
        InputError: there are no examples, or the numbers of scores differ.
    """
    return corrected(differences(metrics, resamples=resamples, seed=seed))


def differences(
    metrics: Mapping[_Key, PairedScores], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[_Key, Difference]:
    """Return the differences of a model from a baseline; see `compare`.

    Raises:
        InputError: there are no examples, or the numbers of scores differ.
    """
    for name, scores in metrics.items():
        count = len(scores.clusters)
        if not count or len(scores.model) != count or len(scores.baseline) != count:
            raise InputError(
                f"{name} has {len(scores.model)} and {len(scores.baseline)} scores of {count} examples.",
                hint="Compare models on the same examples, at least one.",
            )
    return {
        name: Difference(_compare(scores, resamples, seed), scores.higher_is_better) for name, scores in metrics.items()
    }


def corrected(found: Mapping[_Key, Difference]) -> dict[_Key, Comparison]:
    """Return the comparisons of differences with p-values and verdicts that are corrected for their number."""
    alone = {name: one.comparison for name, one in found.items()}
    p_values = holm([one.p_value for one in alone.values()])
    least = holm([one.least_p_value or 0.0 for one in alone.values()])
    return {
        name: _judged(replace(one, p_value=p_value, least_p_value=smallest), found[name].higher_is_better)
        for (name, one), p_value, smallest in zip(alone.items(), p_values, least, strict=True)
    }


def _groups(clusters: Sequence[Hashable | None]) -> list[Hashable]:
    if len(set(clusters)) < _FEW:
        return list(range(len(clusters)))
    return [("alone", at) if cluster is None else ("of", cluster) for at, cluster in enumerate(clusters)]


def _compare(scores: PairedScores, resamples: int, seed: int) -> Comparison:
    differences = [one - other for one, other in zip(scores.model, scores.baseline, strict=True)]
    weights = scores.weights
    if weights is not None:
        differences = [one * weight for one, weight in zip(differences, weights, strict=True)]
    summed = Clusters.of(differences, _groups(scores.clusters), weights)
    low, high = interval_of(summed, resamples=resamples, seed=seed)
    p_value = sign_test(summed, resamples=resamples, seed=seed)
    better = worse = exact = None
    if weights is None and {*scores.model, *scores.baseline} <= {0.0, 1.0}:
        signed = differences if scores.higher_is_better else [-one for one in differences]
        better, worse = sum(one > 0 for one in signed), sum(one < 0 for one in signed)
        exact = mcnemar(better, worse)
        p_value = max(p_value, exact)
    is_known = math.isfinite(low) and math.isfinite(high)
    return Comparison(
        difference=summed.mean,
        low=low if is_known else None,
        high=high if is_known else None,
        p_value=p_value,
        verdict="noise",
        num_examples=len(differences),
        num_clusters=len(summed.sums),
        num_better=better,
        num_worse=worse,
        mcnemar_p=exact,
        # A test of signs: with k documents all signs are the same in 2 of 2^k draws.
        least_p_value=max(2.0 ** (1 - len(summed.sums)), 1 / (resamples + 1)),
        examples_needed=_needed(summed, len(differences)),
    )


def _judged(one: Comparison, higher_is_better: bool) -> Comparison:
    excludes_zero = one.low is not None and one.high is not None and (one.low > 0 or one.high < 0)
    if one.p_value >= _LEVEL or not excludes_zero:
        return one
    return replace(one, verdict="better" if (one.difference > 0) == higher_is_better else "worse", examples_needed=None)


def _needed(summed: Clusters, count: int) -> int | None:
    """Return how many examples a difference of this size needs, to two digits; None without one."""
    if summed.mean == 0 or not math.isfinite(summed.standard_error):
        return None
    normal = NormalDist()
    ratio = (normal.inv_cdf(1 - _LEVEL / 2) + normal.inv_cdf(_POWER)) * summed.standard_error / abs(summed.mean)
    needed = min(_MAX_EXAMPLES, max(count + 1.0, count * ratio**2))
    unit = int(10 ** max(0, len(str(int(needed))) - 2))
    return math.ceil(needed / unit) * unit
