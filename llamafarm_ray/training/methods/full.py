"""Full fine-tuning: every parameter changes, and a whole model is saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from llamafarm_ray.models.loading import Architecture, Task, load_model
from llamafarm_ray.training.methods.base import Method, Precision, Server, check_saved_weights
from llamafarm_ray.types import ModelKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["FullMethod"]


class FullMethod(Method):
    """Saves ``config.json`` and safetensors, as the base model has them."""

    name: ClassVar[str] = "full"
    kind: ClassVar[ModelKind] = ModelKind.BASE

    @property
    def served_by(self) -> Server:
        """See `Method.served_by`."""
        return "vllm"

    def check(self, architecture: Architecture) -> None:
        """Nothing to check: there are no parameters."""

    def load(
        self, folder: Path, *, precision: Precision, device: torch.device, task: Task = "causal-lm"
    ) -> PreTrainedModel:
        """See `Method.load`: all in fp32, since bf16 would round small updates away."""
        del precision, device
        return load_model(folder, dtype=torch.float32, task=task)

    def wrap(self, model: PreTrainedModel, *, base_model: Path, task: Task = "causal-lm") -> PreTrainedModel:
        """See `Method.wrap`."""
        del base_model
        if task == "embedding" and getattr(model, "pooler", None) is not None:
            # Vectors are taken from the last layer. Weights that no loss reaches would stop workers that wait for
            # each other's gradients.
            model.pooler = None
        return model

    def save(self, model: PreTrainedModel, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """See `Method.save`."""
        model.config.use_cache = True
        model.save_pretrained(str(folder), state_dict={**_saved_buffers(model), **weights})
        check_saved_weights(folder)


def _saved_buffers(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the buffers that belong to a saved model: no strategy splits them, and no step changes them."""
    saved = model.state_dict().keys()
    return {name: buffer.detach().cpu() for name, buffer in model.named_buffers() if name in saved}
