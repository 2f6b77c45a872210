"""vLLM, offline: lm-eval's own class."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamafarm_ray.evaluation.benchmarks.backends import RequestKind
from llamafarm_ray.evaluation.benchmarks.backends.asking import ask_lm
from llamafarm_ray.evaluation.benchmarks.backends.on_this_machine import LocalAnswerer
from llamafarm_ray.evaluation.benchmarks.prefix import fix_prefix

if TYPE_CHECKING:
    from lm_eval.api.model import LM

__all__ = ["VllmAnswerer"]

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The greatest ranks that vLLM can be told."""


class VllmAnswerer(LocalAnswerer):
    """An `Answerer` of a base model and a LoRA adapter on it, in vLLM; see `LocalAnswerer`."""

    def answer(
        self, kind: RequestKind, requests: Sequence[Sequence[object]], *, with_adapter: bool, has_template: bool
    ) -> list[Any]:
        """See `Answerer.answer`."""
        lm = self._lm
        fix_prefix(lm, self._tokenizer, has_template=has_template)
        lm.lora_request = self._lora if with_adapter else None
        return ask_lm(lm, kind, requests)

    @functools.cached_property
    def _lm(self) -> LM:
        from lm_eval.models.vllm_causallms import VLLM  # it imports vLLM

        options = {"enforce_eager": True, "dtype": self.precision.removeprefix("torch.")}
        if self._adapter is not None:
            options |= {"lora_local_path": str(self._adapter), "max_lora_rank": _lora_rank(self._adapter)}
        lm = VLLM(pretrained=str(self._base), **options)
        self._lora = lm.lora_request
        return lm


def _lora_rank(adapter: Path) -> int:
    """Return the least rank that vLLM can be told and that holds an adapter's."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    rank = max([int(config.get("r", 8)), *map(int, (config.get("rank_pattern") or {}).values())])
    return next((known for known in _LORA_RANKS if known >= rank), rank)
