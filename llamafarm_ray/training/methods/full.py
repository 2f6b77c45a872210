"""Full fine-tuning: every parameter changes, and a whole model is saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from llamafarm_ray.models.loading import Architecture, load_model
from llamafarm_ray.training.methods.base import Method, Precision, check_saved_weights
from llamafarm_ray.types import ModelKind

__all__ = ["FullMethod"]


class FullMethod(Method):
    """Saves ``config.json`` and safetensors, as the base model has them."""

    name: ClassVar[str] = "full"
    kind: ClassVar[ModelKind] = ModelKind.BASE

    def check(self, architecture: Architecture) -> None:
        """Nothing to check: there are no parameters."""

    def load(self, folder: Path, *, precision: Precision, device: torch.device) -> Any:
        """See `Method.load`: all in fp32, since bf16 would round small updates away."""
        del precision, device
        return load_model(folder, dtype=torch.float32)

    def wrap(self, model: Any, *, base_model: Path) -> Any:
        """See `Method.wrap`."""
        del base_model
        return model

    def save(self, model: Any, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """See `Method.save`."""
        model.config.use_cache = True
        model.save_pretrained(str(folder), state_dict=dict(weights))
        check_saved_weights(folder)
