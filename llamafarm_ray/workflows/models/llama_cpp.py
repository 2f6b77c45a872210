"""llama.cpp's own reading of a GGUF file, compared with the file's source."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from llamafarm_ray.errors import IntegrityError
from llamafarm_ray.models.convert.measure import PROMPTS, held_out_text
from llamafarm_ray.serving.engines.base import SamplingParams
from llamafarm_ray.serving.engines.gguf.engine import GgufEngine

__all__ = ["check_in_llama_cpp", "has_llama_cpp"]

_NAME = "model"


def has_llama_cpp() -> bool:
    """Return True if llama.cpp is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


def check_in_llama_cpp(path: Path, inputs: Sequence[Sequence[int]], next_tokens: Sequence[int]) -> int:
    """Load a file in llama.cpp, and compare its tokens and its next tokens with those expected.

    Args:
        inputs: token ids of the measured texts, of which each may be cut off at its end.
        next_tokens: the expected next token after each; -1: any.

    Returns:
        the number of texts whose next token was compared.

    Raises:
        InputError: llama.cpp can't load the file.
        IntegrityError: it splits a text into other tokens, or finds another token most probable.
    """
    longest = max(len(ids) for ids in inputs)
    engine = GgufEngine(_NAME, path, max_model_len=longest + 1, n_parallel=1)
    texts = [*PROMPTS, held_out_text()][-len(inputs) :]
    for text, ids in zip(texts, inputs, strict=True):
        found = engine.tokenizer(text)["input_ids"]
        if list(found[: len(ids)]) != list(ids):
            place = next((n for n, pair in enumerate(zip(found, ids, strict=False)) if pair[0] != pair[1]), len(found))
            raise IntegrityError(
                f"llama.cpp splits the text {text[:40]!r}... into other tokens from token {place} on: "
                f"{found[place : place + 5]} instead of {list(ids[place : place + 5])}.",
                hint="Nothing was written. Report it as a fault of ours, with the tokenizer's files.",
            )
    compared = [(ids, token) for ids, token in zip(inputs, next_tokens, strict=True) if token >= 0]
    for ids, expected in compared:
        if (answer := asyncio.run(_next_token(engine, ids))) != expected:
            raise IntegrityError(
                f"llama.cpp finds token {answer} most probable where the file's weights give {expected} in "
                "transformers.",
                hint="Nothing was written. Report it as a fault of ours, with the model's config.json.",
            )
    return len(compared)


async def _next_token(engine: GgufEngine, ids: Sequence[int]) -> int:
    params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    found = [step.token.token_id async for step in engine.generate(_NAME, ids, params) if step.token is not None]
    return found[0]
