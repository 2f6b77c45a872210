"""vLLM without a server: one model in this process's hands, for evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import RequestOutput

__all__ = ["OfflineVllm"]


class OfflineVllm:
    """A base model and a LoRA adapter on it in vLLM.

    Args:
        adapter: folder of the adapter; None for a whole model.
        dtype: type of numbers to compute in, by torch's name.
        max_lora_rank: the greatest rank of the adapter, of those that vLLM can be told.
    """

    def __init__(self, base: Path, adapter: Path | None, dtype: str, max_lora_rank: int = 8) -> None:
        from vllm import LLM  # seconds
        from vllm.lora.request import LoRARequest

        options: dict[str, Any] = {"enforce_eager": True, "dtype": dtype}
        self._lora = None
        if adapter is not None:
            options |= {"enable_lora": True, "max_lora_rank": max_lora_rank}
            self._lora = LoRARequest("adapter", 1, str(adapter))
        self._llm = LLM(str(base), **options)

    @property
    def max_length(self) -> int:
        """The most tokens of a prompt with its answer."""
        return int(self._llm.llm_engine.model_config.max_model_len)

    def run(self, prompts: Sequence[Sequence[int]], *, with_adapter: bool, **params: Any) -> list[RequestOutput]:
        """Return vLLM's output for each prompt, in order.

        Args:
            prompts: token ids.
            with_adapter: False asks the base without the adapter.
            params: of `vllm.SamplingParams`.
        """
        from vllm import SamplingParams, TokensPrompt

        found: list[RequestOutput] = self._llm.generate(
            [TokensPrompt(prompt_token_ids=list(one)) for one in prompts],
            SamplingParams(temperature=0.0, **params),
            use_tqdm=False,
            lora_request=self._lora if with_adapter else None,
        )
        return found

    def close(self) -> None:
        """End vLLM's processes."""
        self._llm.llm_engine.engine_core.shutdown()
