"""Metrics: numbers from losses, texts, rankings and times, one kind a file. No model is needed here."""

from llamafarm_ray.evaluation.metrics.answers import contains, exact_match, normalized_words, numeric_match, token_f1
from llamafarm_ray.evaluation.metrics.calibration import calibration_error
from llamafarm_ray.evaluation.metrics.grounding import agreement, context_use, faithfulness
from llamafarm_ray.evaluation.metrics.likelihood import MAX_PERPLEXITY, byte_perplexity, perplexity
from llamafarm_ray.evaluation.metrics.overlap import bleu, chrf, rouge_1, rouge_2, rouge_l
from llamafarm_ray.evaluation.metrics.registry import METRICS, Metric, Score, find_metric
from llamafarm_ray.evaluation.metrics.retrieval import hit_rate, ndcg, reciprocal_rank
from llamafarm_ray.evaluation.metrics.sample import Sample
from llamafarm_ray.evaluation.metrics.speed import percentile, tokens_per_second
from llamafarm_ray.evaluation.metrics.structured import check_schema, json_valid, tool_call_accuracy
from llamafarm_ray.text.refusals import is_refusal

__all__ = [
    "MAX_PERPLEXITY",
    "METRICS",
    "Metric",
    "Sample",
    "Score",
    "agreement",
    "bleu",
    "byte_perplexity",
    "calibration_error",
    "check_schema",
    "chrf",
    "contains",
    "context_use",
    "exact_match",
    "faithfulness",
    "find_metric",
    "hit_rate",
    "is_refusal",
    "json_valid",
    "ndcg",
    "normalized_words",
    "numeric_match",
    "percentile",
    "perplexity",
    "reciprocal_rank",
    "rouge_1",
    "rouge_2",
    "rouge_l",
    "token_f1",
    "tokens_per_second",
    "tool_call_accuracy",
]
