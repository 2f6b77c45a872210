"""The base model's perplexity of the questions that users asked a version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from llamafarm_ray.config import Config
from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.serving.health.perplexity import QuestionPerplexity, compare_losses
from llamafarm_ray.serving.journal.samples import LiveSample
from llamafarm_ray.workflows.evaluation.backend import check_backend, measured_on
from llamafarm_ray.workflows.evaluation.model import EvaluatedModel

if TYPE_CHECKING:
    from llamafarm_ray.evaluation.engines import Engine
    from llamafarm_ray.evaluation.losses import Scored

__all__ = ["question_perplexity"]

_MOST: Final = 500
"""So many questions of the reference, and so many later ones, are measured."""


def question_perplexity(
    config: Config, registry: RegistryApi, ref: str, samples: Sequence[LiveSample], reference: tuple[float, float]
) -> QuestionPerplexity:
    """Measure the samples' questions in this process, on the base of the version that they were asked.

    Args:
        config: ``base_model`` may name the base, ``evaluation.backend`` the engine.
        samples: redacted samples of its requests.
        reference: start and end of the reference, seconds since 1970. Questions before its start are left out.

    Raises:
        UserError: the model is unusable, or the engine is an endpoint.
        NotFoundError: the registry does not have it.
    """
    from llamafarm_ray.models.tokenizer import quiet_libraries  # torch

    quiet_libraries()  # before the next import: it brings DeepSpeed, which tells its choice of a device
    from llamafarm_ray.evaluation.engines.opening import opened

    evaluated = EvaluatedModel.find(config, registry, ref)
    check_backend(config.evaluation, evaluated, None)
    model = measured_on(config.evaluation, evaluated)
    if model.endpoint is not None:
        raise UnsupportedError(
            "An endpoint is asked for a version alone, and not for its base.",
            hint="Set evaluation.backend to transformers, vllm or gguf.",
        )
    losses: dict[bool, list[float]] = {True: [], False: []}
    start_s, end_s = reference
    with opened(replace(model, adapter=None)) as engine:
        chosen = _chosen([one for one in samples if one.time_s >= start_s], end_s)
        scored = [(one, row) for one in chosen if (row := _scored(engine, one.question)) is not None]
        found = engine.losses([row for _, row in scored], lambda *_: None, "questions")
    for (one, _), loss in zip(scored, found, strict=True):
        if loss.num_bytes:
            losses[one.time_s <= end_s].append(loss.total / loss.num_bytes)
    return compare_losses(losses[True], losses[False])


def _chosen(samples: Sequence[LiveSample], reference_end_s: float) -> list[LiveSample]:
    """Return samples from before and after the reference's end, spread over their time where there are many."""
    ordered = sorted(samples, key=lambda one: one.time_s)
    chosen = []
    for is_earlier in (True, False):
        found = [one for one in ordered if (one.time_s <= reference_end_s) == is_earlier]
        chosen += found[:: max(1, -(-len(found) // _MOST))]
    return chosen


def _scored(engine: Engine, question: str) -> Scored | None:
    """Return a question as a text of its own, after the beginning of text; None if it is empty or too long."""
    from llamafarm_ray.evaluation.losses import whole_text  # torch

    row = whole_text(engine.tokenizer, question)
    return row if 1 < len(row.input_ids) <= (engine.max_length or float("inf")) else None
