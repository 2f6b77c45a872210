"""transformers: lm-eval's own HFLM around a model that this package loaded."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from lm_eval.models.huggingface import HFLM

from llamafarm_ray.evaluation.benchmarks.backends import RequestKind
from llamafarm_ray.evaluation.benchmarks.backends.asking import ask_lm
from llamafarm_ray.evaluation.benchmarks.backends.on_this_machine import LocalAnswerer
from llamafarm_ray.evaluation.benchmarks.prefix import fix_prefix
from llamafarm_ray.evaluation.generation import load_for_inference

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from transformers import PreTrainedModel

__all__ = ["TransformersAnswerer"]

_BATCH_SIZE: Final = 8


class TransformersAnswerer(LocalAnswerer):
    """An `Answerer` of a base model and an adapter on it; see `LocalAnswerer`."""

    def answer(
        self, kind: RequestKind, requests: Sequence[Sequence[object]], *, with_adapter: bool, has_template: bool
    ) -> list[object]:
        """See `Answerer.answer`."""
        fix_prefix(self._lm, self._tokenizer, has_template=has_template)
        is_base = self._adapter is not None and not with_adapter
        with self._model.disable_adapter() if is_base else contextlib.nullcontext():
            return ask_lm(self._lm, kind, requests)

    @functools.cached_property
    def _model(self) -> PreTrainedModel:
        return load_for_inference(self._base, self._adapter)

    @functools.cached_property
    def _lm(self) -> LM:
        return HFLM(pretrained=self._model, tokenizer=self._tokenizer, batch_size=_BATCH_SIZE)
