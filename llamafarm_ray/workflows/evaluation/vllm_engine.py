"""vLLM without a server: answers and log-probabilities by the engine that serves most models."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llamafarm_ray.errors import ClusterError
from llamafarm_ray.evaluation.engines.lora_rank import least_lora_rank
from llamafarm_ray.evaluation.engines.tokens import Ends, ScoredText, TokenScores, Written, confidence_of
from llamafarm_ray.evaluation.generation import inference_precision
from llamafarm_ray.models.folder import check_base_model
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.serving.engines.vllm.offline import OfflineVllm

__all__ = ["VllmTokens"]


class VllmTokens:
    """A `TokenEngine` in vLLM.

    Args:
        adapter: folder of a LoRA adapter on it; None for a whole model.

    Raises:
        UserError: the base model is unusable.
    """

    def __init__(self, base: Path, adapter: Path | None) -> None:
        check_base_model(base)
        self.tokenizer = load_tokenizer(base)
        dtype = str(inference_precision()[1]).removeprefix("torch.")
        ranks = {} if adapter is None else {"max_lora_rank": least_lora_rank(adapter)}
        self._vllm = OfflineVllm(base, adapter, dtype, **ranks)
        self.max_length = self._vllm.max_length - 1  # it writes one token at least

    def score(self, texts: Sequence[ScoredText], *, with_adapter: bool) -> list[TokenScores]:
        """See `TokenEngine.score`.

        Raises:
            ClusterError: vLLM tells no log-probability of some tokens.
        """
        prompts = [text.tokens for text in texts]
        outputs = self._vllm.run(prompts, with_adapter=with_adapter, max_tokens=1, prompt_logprobs=1, detokenize=False)
        return [_scores(text, output.prompt_logprobs) for text, output in zip(texts, outputs, strict=True)]

    def write(self, prompts: Sequence[Sequence[int]], ends: Ends, *, with_adapter: bool) -> list[Written]:
        """See `TokenEngine.write`."""
        began = time.perf_counter()
        outputs = self._vllm.run(
            prompts,
            with_adapter=with_adapter,
            max_tokens=ends.max_tokens,
            stop=[one for one in ends.stop if one] or None,
            stop_token_ids=list(ends.stop_ids),
            logprobs=0,
        )
        seconds = time.perf_counter() - began
        return [_written(output.outputs[0], seconds) for output in outputs]

    def close(self) -> None:
        """See `TokenEngine.close`."""
        self._vllm.close()


def _scores(text: ScoredText, told: Any) -> TokenScores:
    places = range(text.num_context, len(text.tokens))
    steps = [told[at] or {} for at in places] if told is not None else []
    known = [step[text.tokens[at]] for at, step in zip(places, steps, strict=False) if text.tokens[at] in step]
    if len(known) < len(places):
        raise ClusterError("vLLM told no log-probability of some tokens.", hint="Run it again.")
    return TokenScores(tuple(one.logprob for one in known), all(one.rank == 1 for one in known))


def _written(answer: Any, seconds: float) -> Written:
    logprobs = [step[token].logprob for token, step in zip(answer.token_ids, answer.logprobs or [], strict=False)]
    return Written(answer.text, len(answer.token_ids), seconds, confidence_of(logprobs))
