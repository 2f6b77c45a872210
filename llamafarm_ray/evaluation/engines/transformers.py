"""transformers in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from llamafarm_ray.evaluation.generation import Generated, generate, load_for_inference
from llamafarm_ray.evaluation.kept import KeptBatches
from llamafarm_ray.evaluation.losses import Loss, Scored, losses_of
from llamafarm_ray.evaluation.progress import Report
from llamafarm_ray.models.folder import check_base_model
from llamafarm_ray.models.tokenizer import load_tokenizer

__all__ = ["TransformersEngine"]


class TransformersEngine:
    """An `Engine` of a base model and an adapter on it.

    Args:
        adapter: folder of the adapter; None for a whole model.

    Raises:
        UserError: one of them is unusable.
    """

    def __init__(self, base: Path, adapter: Path | None) -> None:
        check_base_model(base)
        self.tokenizer = load_tokenizer(base)
        self._model = load_for_inference(base, adapter)
        self._has_adapter = adapter is not None
        self.max_length: int | None = getattr(self._model.config, "max_position_embeddings", None)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        report: Report,
        *,
        with_adapter: bool = True,
        kept: KeptBatches | None = None,
    ) -> list[Generated]:
        """See `Engine.generate`."""
        with self._as_asked(with_adapter=with_adapter):
            return generate(self._model, self.tokenizer, prompts, max_new_tokens, report, kept=kept)

    def losses(
        self,
        sequences: Sequence[Scored],
        report: Report,
        what: str,
        *,
        with_adapter: bool = True,
        kept: KeptBatches | None = None,
    ) -> list[Loss]:
        """See `Engine.losses`."""
        with self._as_asked(with_adapter=with_adapter):
            return losses_of(self._model, self.tokenizer, sequences, report, what, kept=kept)

    def close(self) -> None:
        """See `Engine.close`: the memory goes with the object."""

    def _as_asked(self, *, with_adapter: bool) -> AbstractContextManager[None]:
        is_base = self._has_adapter and not with_adapter
        switched: AbstractContextManager[None] = self._model.disable_adapter() if is_base else contextlib.nullcontext()
        return switched
