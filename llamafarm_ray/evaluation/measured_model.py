"""A model's files, as measurements take them: named here, so that callers need no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.evaluation.kept import KeptBatches

__all__ = ["MeasuredModel"]


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """A model's folders and the digests of its files.

    Args:
        base: folder of the base model.
        adapter: folder of the adapter; None for a whole model.
        weights: digest of the files.
        base_weights: digest of the base's files alone.
        kept: answers of the evaluation that asks it; None keeps none.
    """

    base: Path
    adapter: Path | None
    weights: str
    base_weights: str
    kept: KeptBatches | None = None

    def kept_answers(self, *, with_adapter: bool) -> KeptBatches | None:
        """Return the kept answers of the model, or of its base without the adapter."""
        return self.kept and self.kept.of(self.weights if with_adapter else self.base_weights)
