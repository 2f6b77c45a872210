"""LoRA in the linear layers and bottleneck adapters after the sub-layers, trained together.

The two add different things: LoRA moves the weights that are there, an adapter adds a non-linear function
(He et al., https://arxiv.org/abs/2110.04366, on how such methods combine).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from llamafarm_ray.models.loading import Architecture
from llamafarm_ray.training.methods.adapter import AdapterMethod, adapted_layers, bottleneck_options
from llamafarm_ray.training.methods.base import Server
from llamafarm_ray.training.methods.lora import LoraMethod

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

__all__ = ["HybridLoraAdapterMethod"]


class HybridLoraAdapterMethod(LoraMethod):
    """Saves one peft adapter of a type of our own: import `llamafarm_ray.models.bottleneck` before loading it."""

    name: ClassVar[str] = "hybrid_lora_adapter"

    @property
    def served_by(self) -> Server:
        """See `Method.served_by`: vLLM supports LoRA's half only, and refuses it."""
        return "peft"

    def check(self, architecture: Architecture) -> None:
        """See `Method.check`.

        Raises:
            UserError: LoRA's parameters or the model's blocks don't fit.
        """
        super().check(architecture)
        AdapterMethod(self.parameters).check(architecture)

    def adapter_config(self, model: PreTrainedModel, **common: Any) -> PeftConfig:
        """See `PeftMethod.adapter_config`."""
        from llamafarm_ray.models.bottleneck import HybridLoraAdapterConfig  # imports peft

        return HybridLoraAdapterConfig(
            **common,
            **self.lora_options(model),
            **bottleneck_options(self.parameters, model),
            adapter_modules=adapted_layers(self.parameters, model),
        )
