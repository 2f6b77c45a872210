"""Base of the methods that save an adapter in peft's layout and leave the base model as it was."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from safetensors.torch import save_file

from llamafarm_ray.models.loading import Task
from llamafarm_ray.training.methods.base import Method, check_saved_weights
from llamafarm_ray.types import ModelKind

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

__all__ = ["PeftMethod", "write_adapter"]

_TASK_TYPES: dict[Task, str] = {"causal-lm": "CAUSAL_LM", "embedding": "FEATURE_EXTRACTION"}


class PeftMethod(Method):
    """Saves ``adapter_config.json`` and ``adapter_model.safetensors``; the same weights make the same bytes."""

    kind: ClassVar[ModelKind] = ModelKind.ADAPTER

    @abstractmethod
    def adapter_config(self, model: PreTrainedModel, **common: object) -> PeftConfig:
        """The ``PeftConfig`` for that model.

        Args:
            model: the base model, loaded.
            common: ``task_type`` and ``base_model_name_or_path``.
        """

    def wrap(self, model: PreTrainedModel, *, base_model: Path, task: Task = "causal-lm") -> PreTrainedModel:
        """See `Method.wrap`."""
        # peft imports every quantisation library there is, some of which print: not before a worker needs it.
        from peft import get_peft_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        config = self.adapter_config(model, task_type=_TASK_TYPES[task], base_model_name_or_path=str(base_model))
        wrapped: PreTrainedModel = get_peft_model(model, config)
        # Strategies compute under autocast; a cast to the adapter's fp32 before it only costs time.
        for layer in wrapped.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.cast_input_dtype_enabled = False
        return wrapped

    def adapter_state(self, model: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The adapter's tensors by the names that peft's loader expects; see `Method.save` for the arguments."""
        from peft import get_peft_model_state_dict  # see wrap

        state: dict[str, torch.Tensor] = get_peft_model_state_dict(
            model, state_dict=dict(weights), save_embedding_layers=False
        )
        return state

    def save(self, model: PreTrainedModel, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """See `Method.save`."""
        write_adapter(self.adapter_state(model, weights), model.peft_config["default"], folder)


def write_adapter(state: Mapping[str, torch.Tensor], config: PeftConfig, folder: Path) -> None:
    """Write an adapter, to be used for inference.

    Args:
        state: its tensors by the names that peft's loader expects.
        config: its ``PeftConfig``.
        folder: an existing folder.

    Raises:
        IntegrityError: a tensor is empty or not finite; the folder is no adapter then.
    """
    # A copy of each: some are views into larger tensors, which safetensors refuses.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in sorted(state.items())}
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    check_saved_weights(folder)
    values = config.to_dict()
    values["inference_mode"] = True
    # peft keeps the names in a set; sorted, the same run writes the same bytes, and vLLM reads plain names.
    text = json.dumps(values, indent=2, sort_keys=True, default=_sorted_list)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def _sorted_list(value: object) -> list[object]:
    if isinstance(value, set):
        return sorted(value)
    raise TypeError(f"adapter_config.json can't hold {value!r}")
