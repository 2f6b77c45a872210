"""Speed trial in a process of its own: ``python -m llamafarm_ray.serving.engines.speed_trial``.

It reads the trial as JSON from standard input and writes one marked line with its measurements.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llamafarm_ray.models.convert.measure import held_out_text
from llamafarm_ray.serving.engines.base import Engine, SamplingParams
from llamafarm_ray.serving.optimize.speed import MARK, SpeedTrial

_NAME = "model"
_STEP = 7
"""Tokens between the beginnings of prompts, so that no engine has one in its cache."""


def main() -> None:
    """See the module's text."""
    trial = SpeedTrial(**json.loads(sys.stdin.read()))
    if trial.engine == "vllm":
        from llamafarm_ray.serving.engines.vllm.speed import measure_vllm

        rounds = measure_vllm(trial, prompts)
    else:
        rounds = asyncio.run(_measure(trial))
    first = statistics.median(first for first, _ in rounds)
    rate = statistics.median(rate for _, rate in rounds)
    sys.stdout.write(f"\n{MARK}{json.dumps({'first_token_s': first, 'tokens_per_s': rate})}\n")


def prompts(ids: Sequence[int], trial: SpeedTrial, max_tokens: int | None) -> list[list[list[int]]]:
    """Return the prompts of each round, the first of which warms up; all differ.

    Args:
        max_tokens: the most tokens of a prompt and its answer; ``None``: no bound is known.
    """
    room = (max_tokens or len(ids)) - trial.new_tokens
    length = max(1, min(trial.prompt_tokens, room, len(ids)))
    turned = list(ids)
    made: list[list[list[int]]] = []
    for _ in range(trial.num_rounds + 1):
        made.append([])
        for _ in range(trial.num_parallel):
            turned = turned[_STEP:] + turned[:_STEP]
            made[-1].append(turned[:length])
    return made


async def _measure(trial: SpeedTrial) -> list[tuple[float, float]]:
    engine = _engine(trial)
    ids = engine.tokenizer(held_out_text())["input_ids"]
    rounds = prompts(ids, trial, engine.max_model_len(_NAME))
    params = SamplingParams(max_tokens=trial.new_tokens, temperature=0.0, ignore_eos=True)
    measured = []
    for given in rounds:
        begun = time.perf_counter()
        times = await asyncio.gather(*(_answer(engine, prompt, params) for prompt in given))
        first = statistics.median(moments[0] for moments in times) - begun
        last_first, end = max(moments[0] for moments in times), max(moments[-1] for moments in times)
        later = sum(1 for moments in times for moment in moments if moment > last_first)
        measured.append((first, later / (end - last_first) if end > last_first else 0.0))
    return measured[1:]


async def _answer(engine: Engine, prompt: Sequence[int], params: SamplingParams) -> list[float]:
    return [time.perf_counter() async for step in engine.generate(_NAME, prompt, params) if step.token is not None]


def _engine(trial: SpeedTrial) -> Engine:
    path = Path(trial.model)
    longest = trial.prompt_tokens + trial.new_tokens
    options: dict[str, Any] = dict(trial.options)
    if trial.engine == "gguf":
        from llamafarm_ray.serving.engines.gguf.engine import GgufEngine

        return GgufEngine(
            _NAME,
            path,
            max_model_len=longest,
            n_parallel=trial.num_parallel,
            n_threads=trial.num_threads,
            **options,
        )
    import torch

    from llamafarm_ray.serving.engines.transformers import transformers_engine

    if trial.num_threads is not None:
        torch.set_num_threads(trial.num_threads)
    return transformers_engine(_NAME, path, max_model_len=longest, dtype=trial.dtype, **options)


if __name__ == "__main__":
    main()
