"""vLLM, offline: lm-eval's own class."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llamafarm_ray.evaluation.benchmarks.backends import RequestKind
from llamafarm_ray.evaluation.benchmarks.backends.asking import ask_lm
from llamafarm_ray.evaluation.benchmarks.backends.on_this_machine import LocalAnswerer
from llamafarm_ray.evaluation.benchmarks.prefix import fix_prefix
from llamafarm_ray.evaluation.engines.lora_rank import least_lora_rank

if TYPE_CHECKING:
    from lm_eval.api.model import LM

__all__ = ["VllmAnswerer"]


class VllmAnswerer(LocalAnswerer):
    """An `Answerer` of a base model and a LoRA adapter on it, in vLLM; see `LocalAnswerer`."""

    def answer(
        self, kind: RequestKind, requests: Sequence[Sequence[object]], *, with_adapter: bool, has_template: bool
    ) -> list[object]:
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
            options |= {"lora_local_path": str(self._adapter), "max_lora_rank": least_lora_rank(self._adapter)}
        lm = VLLM(pretrained=str(self._base), **options)
        self._lora = lm.lora_request
        return lm
