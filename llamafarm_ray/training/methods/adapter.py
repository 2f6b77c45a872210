"""Bottleneck adapters after a block's sub-layers; `llamafarm_ray.models.bottleneck` has their layers and sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from llamafarm_ray.config import MethodParameters
from llamafarm_ray.models.loading import Architecture, linear_layers
from llamafarm_ray.models.placement import BlockOutputs, find_block_outputs
from llamafarm_ray.training.methods.base import Server
from llamafarm_ray.training.methods.peft_method import PeftMethod

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

__all__ = ["AdapterMethod", "adapted_layers", "bottleneck_options"]


class AdapterMethod(PeftMethod):
    """Saves a peft adapter of a type of our own: import `llamafarm_ray.models.bottleneck` before loading it."""

    name: ClassVar[str] = "adapter"

    @property
    def served_by(self) -> Server:
        """See `Method.served_by`: vLLM serves low-rank updates of linear layers only."""
        return "peft"

    def check(self, architecture: Architecture) -> None:
        """See `Method.check`.

        Raises:
            UserError: the model's blocks have no attention or no feed-forward network that an adapter could follow.
        """
        find_block_outputs(architecture.linear_layers, architecture.hidden_size)

    def adapter_config(self, model: PreTrainedModel, **common: Any) -> PeftConfig:
        """See `PeftMethod.adapter_config`."""
        from llamafarm_ray.models.bottleneck import BottleneckConfig  # imports peft

        options = bottleneck_options(self.parameters, model)
        return BottleneckConfig(**common, target_modules=adapted_layers(self.parameters, model), **options)


def adapted_layers(parameters: MethodParameters, model: PreTrainedModel) -> str:
    """A regular expression that matches the layers that adapters follow in the base model."""
    return _outputs(model).pattern(after_attention=parameters.adapter_type == "houlsby")


def bottleneck_options(parameters: MethodParameters, model: PreTrainedModel) -> dict[str, Any]:
    """Return the options shared by our two peft configurations."""
    hidden_size = model.config.get_text_config().hidden_size
    return {
        "adapter_type": parameters.adapter_type,
        "bottleneck_dim": parameters.bottleneck_dim or max(1, hidden_size // parameters.reduction_factor),
        "non_linearity": parameters.non_linearity,
        "adapter_dropout": parameters.adapter_dropout,
        "adapter_scale": parameters.adapter_scale,
    }


def _outputs(model: PreTrainedModel) -> BlockOutputs:
    return find_block_outputs(linear_layers(model), getattr(model.config.get_text_config(), "hidden_size", None))
