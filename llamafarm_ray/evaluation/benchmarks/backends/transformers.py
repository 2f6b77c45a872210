"""transformers: lm-eval's own HFLM around a model that this package loaded."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lm_eval.models.huggingface import HFLM

from llamafarm_ray.evaluation.benchmarks.backends import RequestKind
from llamafarm_ray.evaluation.benchmarks.backends.asking import ask_lm
from llamafarm_ray.evaluation.benchmarks.prefix import fix_prefix
from llamafarm_ray.evaluation.generation import inference_precision, load_for_inference
from llamafarm_ray.models.folder import check_base_model
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries

__all__ = ["TransformersAnswerer"]

_BATCH_SIZE: Final = 8


class TransformersAnswerer:
    """An `Answerer` of a base model and an adapter on it.

    Args:
        base: folder of the base model.
        adapter: folder of the adapter; None for a whole model.

    Raises:
        UserError: one of them is unusable.
    """

    def __init__(self, base: Path, adapter: Path | None) -> None:
        quiet_libraries()
        check_base_model(base)
        self._base, self._adapter = base, adapter
        self._tokenizer = load_tokenizer(base)

    @property
    def chat_template(self) -> str:
        """See `Answerer.chat_template`."""
        return str(self._tokenizer.chat_template or "")

    @property
    def precision(self) -> str:
        """See `Answerer.precision`."""
        return str(inference_precision()[1])

    def render(self, chat: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """See `Answerer.render`."""
        return str(self._lm.apply_chat_template(list(chat), add_generation_prompt=add_generation_prompt))

    def answer(
        self, kind: RequestKind, requests: Sequence[Sequence[Any]], *, with_adapter: bool, has_template: bool
    ) -> list[Any]:
        """See `Answerer.answer`."""
        fix_prefix(self._lm, self._tokenizer, has_template=has_template)
        is_base = self._adapter is not None and not with_adapter
        with self._model.disable_adapter() if is_base else contextlib.nullcontext():
            return ask_lm(self._lm, kind, requests)

    @functools.cached_property
    def _model(self) -> Any:
        return load_for_inference(self._base, self._adapter)

    @functools.cached_property
    def _lm(self) -> Any:
        return HFLM(pretrained=self._model, tokenizer=self._tokenizer, batch_size=_BATCH_SIZE)
