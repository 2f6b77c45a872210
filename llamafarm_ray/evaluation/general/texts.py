"""Fixed texts about everyday matters, and a model's loss on them: a rise shows forgetting in training."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping
from typing import Final

from llamafarm_ray.evaluation.comparison.pairing import paired_scores
from llamafarm_ray.evaluation.engines import Engine
from llamafarm_ray.evaluation.kept import KeptBatches
from llamafarm_ray.evaluation.losses import whole_text
from llamafarm_ray.evaluation.metrics import METRICS, Sample
from llamafarm_ray.evaluation.progress import Report
from llamafarm_ray.evaluation.result import BenchmarkScores, improvement
from llamafarm_ray.types import Digest

__all__ = ["general_result", "general_samples"]

_METRICS: Final = {"perplexity": "perplexity", "byte_perplexity": "byte_perplexity"}
_METHOD: Final = (
    "Perplexity of everyday texts in six languages, with letters, dialogs and code, before and after training; its "
    "logarithm is compared, text by text."
)


def general_samples(
    engine: Engine, report: Report, kept: KeptBatches | None = None, *, with_adapter: bool = True
) -> dict[int, Sample]:
    """Return the loss of each text that fits the model, by its place."""
    max_length = engine.max_length or float("inf")
    rows = {at: whole_text(engine.tokenizer, text) for at, text in enumerate(_texts())}
    fitting = {at: row for at, row in rows.items() if 1 < len(row.input_ids) <= max_length}
    asked = list(fitting.values())
    losses = engine.losses(asked, report, "general texts", with_adapter=with_adapter, kept=kept)
    return {
        at: Sample(loss_sum=loss.total, num_loss_tokens=loss.num_tokens, num_loss_bytes=loss.num_bytes)
        for at, loss in zip(fitting, losses, strict=True)
    }


def general_result(ours: Mapping[int, Sample], before: Mapping[int, Sample] | None, template: str) -> BenchmarkScores:
    """Return the scores beside the baseline's, and how sure the difference is.

    Args:
        ours: the model's losses by text.
        before: the baseline's; None without one.
        template: digest of the chat template, which is not used here.
    """
    scores = _scores(ours)
    others = _scores(before) if before is not None else None
    pairs = paired_scores(ours, before, [None] * len(_texts()), _METRICS) if before is not None else {}
    change = None
    if others and "perplexity" in scores and "perplexity" in others:
        change = improvement("perplexity", scores["perplexity"], others["perplexity"])
    found = BenchmarkScores(
        metrics=scores,
        improvement=change,
        baseline=others,
        num_examples=len(ours),
        num_skipped=len(_texts()) - len(ours),
        digests={"template": template, "data": Digest.of("\n".join(_texts()).encode()), "settings": Digest.of(b"")},
        method=_METHOD,
        sample=f"general texts 1 ({len(_texts())} texts)",
        reason=None if scores else "no text fits the model",
    )
    return found.compared(pairs)


def _scores(samples: Mapping[int, Sample]) -> dict[str, float]:
    found = {name: METRICS[name].measure(list(samples.values())).value for name in _METRICS}
    return {name: value for name, value in found.items() if value is not None}


def _texts() -> list[str]:
    file = importlib.resources.files(__package__).joinpath("texts.json")
    return list(json.loads(file.read_text(encoding="utf-8")))
