"""Speed trial of vLLM, by its offline interface and with the settings of ``llamafarm models deploy``.

The first token's time is that of answers of one token; longer answers to prompts of the same length give the rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llamafarm_ray.models.convert.measure import held_out_text
from llamafarm_ray.models.packed_files import vllm_dtype_on_cpu
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.serving.optimize.speed import SpeedTrial

__all__ = ["measure_vllm"]

Prompts = Callable[[Sequence[int], SpeedTrial, int | None], list[list[list[int]]]]


def measure_vllm(trial: SpeedTrial, prompts: Prompts) -> list[tuple[float, float]]:
    """Return seconds to the first token and tokens a second of each round.

    Args:
        prompts: gives the prompts of each round, the first of which warms up.
    """
    from vllm import LLM, SamplingParams  # seconds

    longest = trial.prompt_tokens + trial.new_tokens
    options: dict[str, Any] = {}
    if not torch.cuda.is_available():
        options = {"enforce_eager": True, "dtype": vllm_dtype_on_cpu(Path(trial.model))}  # as `deploy` has it
    if trial.dtype is not None:
        options["dtype"] = trial.dtype
    options |= dict(trial.options)
    engine = LLM(
        str(trial.model), max_model_len=_context(Path(trial.model), longest), enable_prefix_caching=False, **options
    )
    bound = engine.llm_engine.model_config.max_model_len
    ids = load_tokenizer(Path(trial.model))(held_out_text(), verbose=False)["input_ids"]
    rounds = prompts(ids, replace(trial, num_rounds=2 * trial.num_rounds + 1), bound)

    def seconds(given: Sequence[Sequence[int]], num_tokens: int) -> float:
        params = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
        begun = time.perf_counter()
        engine.generate([{"prompt_token_ids": list(one)} for one in given], params, use_tqdm=False)
        return time.perf_counter() - begun

    seconds(rounds[0], trial.new_tokens)
    seconds(rounds[1], 1)
    measured = []
    for short, long in zip(rounds[2::2], rounds[3::2], strict=True):
        first, whole = seconds(short, 1), seconds(long, trial.new_tokens)
        later = trial.num_parallel * (trial.new_tokens - 1)
        measured.append((first, later / (whole - first) if whole > first else 0.0))
    return measured


def _context(folder: Path, longest: int) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    return int(min(longest, getattr(config, "max_position_embeddings", None) or longest))
