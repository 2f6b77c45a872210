"""Parts that answerers share that load a model on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llamafarm_ray.evaluation.generation import inference_precision
from llamafarm_ray.models.folder import check_base_model
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries

if TYPE_CHECKING:
    from lm_eval.api.model import LM

__all__ = ["LocalAnswerer"]


class LocalAnswerer:
    """An `Answerer` of a base model and an adapter on it, without ``answer``.

    Args:
        adapter: folder of the adapter; None for a whole model.

    Raises:
        UserError: one of them is unusable.
    """

    _lm: LM
    """lm-eval's model, loaded when it is first asked."""

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
