"""Pairs of scores of two models, from their answers to the same examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from llamafarm_ray.evaluation.comparison.compare import PairedScores
from llamafarm_ray.evaluation.metrics import METRICS, Sample

__all__ = ["paired_scores"]

_LOSSES = {"perplexity": "num_loss_tokens", "byte_perplexity": "num_loss_bytes"}


def paired_scores(
    model: Mapping[int, Sample],
    baseline: Mapping[int, Sample],
    documents: Sequence[str | None],
    metrics: Mapping[str, str],
) -> dict[str, PairedScores]:
    """Return the scores of the examples that both models answered, by name.

    Perplexities are compared by their logarithms, ``log_perplexity``, and only where both models have the same tokens
    (or bytes). Metrics of a whole set, such as BLEU, and those without a direction have no pairs.

    Args:
        model: answers by the example's number.
        baseline: likewise.
        documents: the document of each example; None if it is not known.
        metrics: names in the result, with the metrics that they are.
    """
    found = {}
    both = [at for at in model if at in baseline]
    for name, metric in metrics.items():
        if metric in _LOSSES:
            compared = f"log_{name}"
            pairs = _losses(model, baseline, both, documents, _LOSSES[metric])
        else:
            compared = name
            pairs = _means(model, baseline, both, documents, metric)
        if pairs is not None:
            found[compared] = pairs
    return found


def _means(
    model: Mapping[int, Sample],
    baseline: Mapping[int, Sample],
    both: Sequence[int],
    documents: Sequence[str | None],
    metric: str,
) -> PairedScores | None:
    known = METRICS[metric]
    if known.each is None or known.higher_is_better is None:
        return None
    scores = [(at, known.of_sample(model[at]), known.of_sample(baseline[at])) for at in both]
    paired = [(at, one, other) for at, one, other in scores if one is not None and other is not None]
    if not paired:
        return None
    places, ones, others = zip(*paired, strict=True)
    return PairedScores(ones, others, [documents[at] for at in places], known.higher_is_better)


def _is_number(sample: Sample) -> bool:
    """Return True if a sample has a loss, and the model did not compute it to be no number."""
    return sample.loss_sum is not None and math.isfinite(sample.loss_sum)


def _losses(
    model: Mapping[int, Sample],
    baseline: Mapping[int, Sample],
    both: Sequence[int],
    documents: Sequence[str | None],
    unit: str,
) -> PairedScores | None:
    known = [at for at in both if _is_number(model[at]) and _is_number(baseline[at]) and getattr(model[at], unit)]
    counts = [getattr(model[at], unit) for at in known]
    if not known or counts != [getattr(baseline[at], unit) for at in known]:
        return None
    ones, others = (
        [(samples[at].loss_sum or 0.0) / count for at, count in zip(known, counts, strict=True)]
        for samples in (model, baseline)
    )
    return PairedScores(ones, others, [documents[at] for at in known], higher_is_better=False, weights=counts)
