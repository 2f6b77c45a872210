"""A model's files, as measurements take them: named here, so that callers need no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.evaluation.engines import Backend
from llamafarm_ray.evaluation.engines.served import Endpoint
from llamafarm_ray.evaluation.kept import KeptBatches

__all__ = ["MeasuredModel"]


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """A model's folders, the digests of its files, and the engine that it is asked on.

    Args:
        adapter: folder of the adapter; None for a whole model.
        base_weights: digest of the base's files alone.
        kept: answers of the evaluation that asks it; None keeps none.
        backend: the engine by name: scores of two engines are not the same measure.
        endpoint: the running endpoint, for that backend.
    """

    base: Path
    adapter: Path | None
    weights: str
    base_weights: str
    kept: KeptBatches | None = None
    backend: Backend = "transformers"
    endpoint: Endpoint | None = None

    @property
    def has_base(self) -> bool:
        """True for an adapter whose base without it can be asked too; an endpoint is asked for the model alone."""
        return self.adapter is not None and self.endpoint is None

    @property
    def options(self) -> Mapping[str, object]:
        """Options to open the engine with."""
        if self.endpoint is not None:
            return {"endpoint": self.endpoint, "folder": self.base}
        return {"base": self.base, "adapter": self.adapter}

    def kept_answers(self, *, with_adapter: bool) -> KeptBatches | None:
        """Return the kept answers of the model, or of its base without the adapter."""
        if self.endpoint is not None:  # it may have other weights tomorrow
            return None
        return self.kept and self.kept.of(self.weights if with_adapter else self.base_weights)
