"""Comparisons of two models: their time, coverage of intervals, and verdicts where there is no difference."""

import time
from collections.abc import Callable

import numpy as np
from benchmarks.evaluated.report import Report

from llamafarm_ray.evaluation.comparison import Clusters, PairedScores, compare, interval_of

RESAMPLES = 2000
"""Draws of each simulation's bootstrap; the time is measured with all 10,000."""

Draw = Callable[[np.random.Generator, float], PairedScores]
"""Gives the scores of two models on the same examples, whose difference is a number on average."""


def scores_of_their_own(rng: np.random.Generator, difference: float) -> PairedScores:
    """200 examples that have nothing to do with each other; F1 or the like."""
    shared = rng.normal(0, 1, 200)
    model, baseline = (shared + rng.normal(0, 0.5, 200) for _ in range(2))
    return PairedScores(list(model + difference), list(baseline), range(200))


def right_and_wrong(rng: np.random.Generator, difference: float) -> PairedScores:
    """300 examples that are right or wrong, some of them harder."""
    hardness = rng.uniform(0.2, 0.7, 300)
    model, baseline = rng.random(300) < hardness + difference, rng.random(300) < hardness
    return PairedScores(list(model.astype(float)), list(baseline.astype(float)), range(300))


def by_document(rng: np.random.Generator, difference: float) -> PairedScores:
    """40 documents with 2 to 12 questions each; a model is good or bad at whole documents."""
    sizes = rng.integers(2, 13, 40)
    documents = np.repeat(np.arange(40), sizes)
    effects = rng.normal(difference, 0.5, 40)[documents]
    baseline = rng.normal(0, 1, len(documents))
    model = baseline + effects + rng.normal(0, 0.5, len(documents))
    return PairedScores(list(model), list(baseline), list(documents))


def measure_comparison(report: Report, simulations: int) -> None:
    """Time the bootstrap, and count how often its interval holds the true difference and A/A is called a difference."""
    rng = np.random.default_rng(1)
    differences = list(rng.normal(0, 1, 10_000))
    began = time.process_time()
    interval_of(Clusters.of(differences, list(rng.integers(0, 1000, 10_000))))
    report.at_most("bootstrap: 10,000 items of 1,000 documents, 10,000 draws", time.process_time() - began, 2, "s")
    began = time.process_time()
    interval_of(Clusters.of(differences, range(10_000)))
    report.at_most("the same, each item alone", time.process_time() - began, 2, "s")
    kinds = {"examples alone": scores_of_their_own, "right or wrong": right_and_wrong, "by document": by_document}
    for name, draw in kinds.items():
        held = sum(_holds(draw, seed, difference=0.1) for seed in range(simulations))
        report.between(f"95 % intervals with the truth, {name}", 100 * held / simulations, (93, 97), "%")
        called = sum(_is_called(draw, seed) for seed in range(simulations))
        report.at_most(f"A/A called a difference, {name}", 100 * called / simulations, 5, "%")


def _holds(draw: Draw, seed: int, difference: float) -> bool:
    found = compare({"score": draw(np.random.default_rng(seed), difference)}, resamples=RESAMPLES, seed=seed)["score"]
    return found.low is not None and found.high is not None and found.low <= difference <= found.high


def _is_called(draw: Draw, seed: int) -> bool:
    scores = draw(np.random.default_rng(10**6 + seed), 0.0)
    return compare({"score": scores}, resamples=RESAMPLES, seed=seed)["score"].verdict != "noise"
