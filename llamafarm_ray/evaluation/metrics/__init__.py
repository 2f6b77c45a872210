"""Metrics: numbers from losses, texts, rankings and times, one kind a file. No model is needed here."""

from llamafarm_ray.evaluation.metrics.likelihood import MAX_PERPLEXITY, byte_perplexity, perplexity
from llamafarm_ray.evaluation.metrics.overlap import bleu, chrf, rouge_1, rouge_2, rouge_l

__all__ = ["MAX_PERPLEXITY", "bleu", "byte_perplexity", "chrf", "perplexity", "rouge_1", "rouge_2", "rouge_l"]
