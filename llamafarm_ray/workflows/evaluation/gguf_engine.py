"""GGUF files in llama.cpp: answers and log-probabilities by the engine that serves them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llamafarm_ray.errors import ClusterError
from llamafarm_ray.evaluation.engines.tokens import Ends, ScoredText, TokenScores, Written, confidence_of
from llamafarm_ray.models.folder import gguf_file
from llamafarm_ray.serving.engines.base import SamplingParams
from llamafarm_ray.serving.engines.detokenizer import Detokenizer
from llamafarm_ray.serving.engines.gguf.engine import GgufEngine
from llamafarm_ray.storage.formats.gguf import read_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["GgufTokens"]

_BASE: Final = "base"
_ADAPTED: Final = "adapted"
_PARALLEL: Final = 1
"""Answers at the same time: with several, llama.cpp's batches and so its last digits depend on the times of
requests."""


class GgufTokens:
    """A `TokenEngine` in llama.cpp.

    Args:
        base: the file, or its folder.
        adapter: a low-rank update of it as GGUF; None for the file alone.

    Raises:
        InputError: a file is no such model, or llama.cpp can't load it.
        UnsupportedError: llama.cpp is not installed.
    """

    def __init__(self, base: Path, adapter: Path | None) -> None:
        self._engine = GgufEngine(_BASE, base, n_parallel=_PARALLEL)
        self._has_adapter = adapter is not None
        if adapter is not None:
            asyncio.run(self._engine.load_adapter(_ADAPTED, adapter))
        tokenizer: PreTrainedTokenizerBase = self._engine.tokenizer
        bos = read_gguf(gguf_file(base)).facts.get("tokenizer.ggml.bos_token_id")
        tokenizer.bos_token_id = bos if isinstance(bos, int) else None
        tokenizer.bos_token = "" if tokenizer.bos_token_id is None else tokenizer.decode([tokenizer.bos_token_id])
        self.tokenizer = tokenizer
        self.max_length = (self._engine.max_model_len(_BASE) or 2**31) - 1

    def score(self, texts: Sequence[ScoredText], *, with_adapter: bool) -> list[TokenScores]:
        """See `TokenEngine.score`."""
        return asyncio.run(self._score_all(texts, self._name(with_adapter=with_adapter)))

    def write(self, prompts: Sequence[Sequence[int]], ends: Ends, *, with_adapter: bool) -> list[Written]:
        """See `TokenEngine.write`."""
        params = SamplingParams(ends.max_tokens, temperature=0.0, stop_token_ids=tuple(ends.stop_ids), logprobs=1)
        return asyncio.run(self._write_all(prompts, params, ends.stop, self._name(with_adapter=with_adapter)))

    def close(self) -> None:
        """See `TokenEngine.close`: llama.cpp's processes end with the object."""

    def _name(self, *, with_adapter: bool) -> str:
        return _ADAPTED if with_adapter and self._has_adapter else _BASE

    async def _score_all(self, texts: Sequence[ScoredText], name: str) -> list[TokenScores]:
        found = []
        for text in texts:
            params = SamplingParams(0, 0.0, prompt_logprobs=1, first_prompt_logprob=text.num_context)
            told = [token async for step in self._engine.generate(name, text.tokens, params) for token in step.prompt]
            scored = told[text.num_context :]
            if len(told) != len(text.tokens) or any(token.logprob is None for token in scored):
                raise ClusterError("llama.cpp told no log-probability of some tokens.", hint="Run it again.")
            greedy = all(token.token_id == token.top[0][0] for token in scored)
            found.append(TokenScores(tuple(token.logprob or 0.0 for token in scored), greedy))
        return found

    async def _write_all(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, stop: Sequence[str], name: str
    ) -> list[Written]:
        found = []
        for prompt in prompts:
            letters = Detokenizer(self.tokenizer, prompt, tuple(one for one in stop if one))
            text, logprobs, began = "", list[float | None](), time.perf_counter()
            async for step in self._engine.generate(name, prompt, params):
                logprobs += [step.token.logprob] if step.token is not None else []
                if step.token is not None and step.finish_reason != "stop":
                    text += letters.add(step.token.token_id)
                if letters.is_stopped:
                    break
            text = text if letters.is_stopped else text + letters.finish()
            took = time.perf_counter() - began
            found.append(Written(text, len(logprobs), took, confidence_of(logprobs)))
        return found
