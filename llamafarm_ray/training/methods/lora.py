"""LoRA: low-rank matrices beside frozen linear layers (https://arxiv.org/abs/2106.09685).

With ``use_rslora`` the update is scaled by alpha/sqrt(r) (https://arxiv.org/abs/2312.03732); ``use_dora`` learns a
magnitude beside the direction (https://arxiv.org/abs/2402.09353).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file

from llamafarm_ray.errors import UserError, did_you_mean
from llamafarm_ray.models.loading import Architecture, linear_module_names
from llamafarm_ray.training.methods.base import Method, check_saved_weights
from llamafarm_ray.types import ModelKind

__all__ = ["LoraMethod"]


class LoraMethod(Method):
    """Saves a plain peft adapter: ``adapter_config.json`` and ``adapter_model.safetensors``."""

    name: ClassVar[str] = "lora"
    kind: ClassVar[ModelKind] = ModelKind.ADAPTER

    def check(self, architecture: Architecture) -> None:
        """See `Method.check`.

        Raises:
            UserError: an entry of ``target_modules`` names no module of the model.
        """
        if not architecture.linear_modules:
            raise UserError("The base model has no linear layers that LoRA could adapt.", hint="Use method full.")
        if isinstance(self.parameters.target_modules, str):
            return
        for target in self.parameters.target_modules:
            # peft's own rule for a list: the whole dotted name, or its end.
            if not any(name == target or name.endswith(f".{target}") for name in architecture.module_names):
                raise UserError(
                    f"fine_tuning.parameters.target_modules names {target!r}, which the base model does not have.",
                    hint=did_you_mean(target, architecture.linear_modules),
                )

    def wrap(self, model: Any, *, base_model: Path) -> Any:
        """See `Method.wrap`."""
        # peft imports every quantisation library there is, some of which print: not before a worker needs it.
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415

        parameters = self.parameters
        config = LoraConfig(
            task_type="CAUSAL_LM",
            base_model_name_or_path=str(base_model),
            r=parameters.r,
            lora_alpha=parameters.lora_alpha,
            lora_dropout=parameters.lora_dropout,
            target_modules=self._target_modules(model),
            use_rslora=parameters.use_rslora,
            use_dora=parameters.use_dora,
        )
        return get_peft_model(model, config)

    def save(self, model: Any, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """See `Method.save`."""
        from peft import get_peft_model_state_dict  # noqa: PLC0415 - see wrap

        state = get_peft_model_state_dict(model, state_dict=dict(weights), save_embedding_layers=False)
        save_file(
            {name: tensor.contiguous() for name, tensor in state.items()}, str(folder / "adapter_model.safetensors")
        )
        check_saved_weights(folder)
        config = model.peft_config["default"].to_dict()
        config["inference_mode"] = True
        # peft keeps the names in a set; sorted, the same run writes the same bytes, and vLLM reads plain names.
        text = json.dumps(config, indent=2, sort_keys=True, default=_sorted_list)
        (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")

    def _target_modules(self, model: Any) -> list[str]:
        targets = self.parameters.target_modules
        if not isinstance(targets, str):
            return sorted(targets)
        return linear_module_names(model)


def _sorted_list(value: object) -> list[Any]:
    if isinstance(value, set):
        return sorted(value)
    raise TypeError(f"adapter_config.json can't hold {value!r}")
