"""Run vLLM over requests with `ray.data.llm`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray.data

from llamafarm_ray.data.generation.cluster.plan import VllmPlan
from llamafarm_ray.data.generation.cluster.schemas import whole_items
from llamafarm_ray.data.generation.endpoint.cache import Answer
from llamafarm_ray.data.generation.endpoint.client import RefusedError
from llamafarm_ray.errors import InputError

if TYPE_CHECKING:
    from ray.data.llm import Processor

__all__ = ["EngineRequest", "answers_of", "longest_text"]

_ROWS_PER_BATCH = 16
_KV_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
_GRAMMARS = {"backend": "xgrammar", "disable_any_whitespace": True}
"""A request can't choose either: with the default a model may write spaces up to the limit of tokens."""
_ERROR = "__inference_error__"
_ROWS = pa.schema([("request", pa.int64()), ("tokens", pa.list_(pa.int32())), ("grammar", pa.string())])


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A prompt, and the JSON schema of its answer."""

    tokens: Sequence[int]
    schema: Mapping[str, object]


def answers_of(plan: VllmPlan, requests: Sequence[EngineRequest]) -> Iterator[tuple[int, Answer | RefusedError]]:
    """Yield the index of each request with its answer, as they come. Needs a connected Ray.

    One request that the engine refuses, as a prompt that is too long, stops no other.

    Args:
        requests: at least one.
    """
    rows = [
        {"request": index, "tokens": request.tokens, "grammar": json.dumps(request.schema)}
        for index, request in enumerate(requests)
    ]
    blocks = [
        pa.Table.from_pylist(rows[start : start + _ROWS_PER_BATCH], schema=_ROWS)
        for start in range(0, len(rows), _ROWS_PER_BATCH)
    ]
    longest = longest_text(plan)
    for row in _processor(plan, longest)(ray.data.from_blocks(blocks)).iter_rows():
        if row.get(_ERROR):
            yield row["request"], RefusedError(str(row[_ERROR]))
        else:
            yield row["request"], _answer(row, plan, longest)


def longest_text(plan: VllmPlan) -> int:
    """Return the most tokens of a prompt with its answer: those of the plan, or of the model if they are fewer.

    Raises:
        InputError: the model's config.json can't be read.
    """
    path = Path(plan.folder, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        known = {**config.get("text_config", {}), **config}.get("max_position_embeddings")
        return min(plan.max_model_len, int(known)) if known else plan.max_model_len
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} can't be read: {error}.", hint="Name a folder with a model of transformers."
        ) from None


def _answer(row: Mapping[str, Any], plan: VllmPlan, longest: int) -> Answer:
    given, made = int(row["num_input_tokens"]), int(row["num_generated_tokens"])
    was_cut = made >= plan.asking.max_output_tokens or given + made >= longest
    text = str(row["generated_text"])
    whole = whole_items(text) if was_cut else text
    # Its elements are whole, so it reads as an answer that has fewer of them.
    return Answer(whole, "length" if was_cut and whole == text else "stop", given, made)


def _processor(plan: VllmPlan, longest: int) -> Processor:
    """Return Ray's processor: the engine alone, because prompts are tokens already.

    Ray would start an actor with a CPU of its own for templates, tokens and texts each, more CPUs than small machines
    have. Its steps around the engine take no CPU, so that the engine can have them all.
    """
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig  # imports transformers and torch

    asking = plan.asking
    config = vLLMEngineProcessorConfig(
        model_source=str(plan.folder),
        engine_kwargs={"structured_outputs_config": _GRAMMARS, **plan.engine_kwargs, "max_model_len": longest},
        batch_size=_ROWS_PER_BATCH,
        concurrency=plan.replicas,
        placement_group_config=None if plan.num_gpus else {"bundles": [{"CPU": plan.num_cpus}]},
        should_continue_on_error=True,
        log_engine_metrics=False,
        runtime_env={"env_vars": _environment()},
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )

    def prepared(row: Mapping[str, object]) -> dict[str, object]:
        sampling = {"temperature": asking.temperature, "max_tokens": asking.max_output_tokens, "seed": 0}
        grammar = {"structured_outputs": {"json": row["grammar"]}}
        return {"tokenized_prompt": row["tokens"], "sampling_params": {**sampling, **grammar}}

    no_cpu = {"num_cpus": 0}
    with _without_notices():
        return build_processor(
            config,
            preprocess=prepared,
            postprocess=_outcome,
            preprocess_map_kwargs=no_cpu,
            postprocess_map_kwargs=no_cpu,
        )


def _outcome(row: Mapping[str, object]) -> dict[str, object]:
    """Return the needed fields of an answer; Ray adds the error, and leaves a row that has one unchanged."""
    return {name: row[name] for name in ("request", "generated_text", "num_generated_tokens", "num_input_tokens")}


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Keep away from the user's terminal that Ray is connected already, and that a folder needs no download."""
    level = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(level)


def _environment() -> dict[str, str]:
    """Return the variables of an engine's process: nothing from a hub, and the memory for keys and values on a CPU."""
    return {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        _KV_VARIABLE: os.environ.get(_KV_VARIABLE) or "1",
    }
