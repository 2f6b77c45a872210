"""Comparison of two models on the same examples: paired, clustered by document, and corrected for several metrics."""

from llamafarm_ray.evaluation.comparison.compare import (
    Comparison,
    Difference,
    PairedScores,
    compare,
    corrected,
    differences,
)
from llamafarm_ray.evaluation.comparison.exact import holm, mcnemar
from llamafarm_ray.evaluation.comparison.proportions import rate_interval, wilson_interval
from llamafarm_ray.evaluation.comparison.resampling import Clusters, interval_of, sign_test
from llamafarm_ray.evaluation.comparison.text import difference_text

__all__ = [
    "Clusters",
    "Comparison",
    "Difference",
    "PairedScores",
    "compare",
    "corrected",
    "difference_text",
    "differences",
    "holm",
    "interval_of",
    "mcnemar",
    "rate_interval",
    "sign_test",
    "wilson_interval",
]
