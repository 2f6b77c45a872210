"""LoRA: low-rank matrices beside frozen linear layers (https://arxiv.org/abs/2106.09685).

With ``use_rslora`` the update is scaled by alpha/sqrt(r) (https://arxiv.org/abs/2312.03732); ``use_dora`` learns a
magnitude beside the direction (https://arxiv.org/abs/2402.09353).

``target_modules: auto`` is every linear layer but the output head, as ``all-linear`` is; routed experts that a model
keeps as one tensor for all are no linear layers. Unfit layers are left out (`linear_module_names`).

Adapting all layers is what reaches full fine-tuning's quality, and more than rank does
(https://arxiv.org/abs/2305.14314, section 4; https://arxiv.org/abs/2405.09673, figure 6); peft's own default, two or
three attention projections, does not.

``layers_to_transform`` leaves the lower blocks as they are: nothing is propagated back through them, which takes a
quarter off the time of a run that adapts the upper two thirds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from llamafarm_ray.errors import UserError, did_you_mean
from llamafarm_ray.models.loading import Architecture, linear_module_names, text_part
from llamafarm_ray.training.methods.base import Server
from llamafarm_ray.training.methods.peft_method import PeftMethod

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

__all__ = ["LoraMethod", "num_blocks"]

_NUMBER = re.compile(r".*\.[^.]*\.(\d+)\.")  # as peft finds a block's number
_POOLER = r"(.*\.)?pooler(\..*)?"


class LoraMethod(PeftMethod):
    """Saves a plain peft adapter: ``adapter_config.json`` and ``adapter_model.safetensors``."""

    name: ClassVar[str] = "lora"

    @property
    def served_by(self) -> Server:
        """See `Method.served_by`: vLLM, but for DoRA, which it refuses."""
        return "peft" if self.parameters.use_dora else "vllm"

    @property
    def not_shardable(self) -> str:
        """See `Method.not_shardable`: DoRA computes with a layer's weight outside of the layer."""
        return "use_dora needs each layer's whole weight beside the layer" if self.parameters.use_dora else ""

    def check(self, architecture: Architecture) -> None:
        """See `Method.check`.

        Raises:
            UserError: an entry of ``target_modules`` names no module of the model, or a pattern no adapted module.
        """
        if not architecture.linear_modules:
            raise UserError("The base model has no linear layers that LoRA could adapt.", hint="Use method full.")
        targets: Iterable[str] = architecture.linear_modules
        if not isinstance(self.parameters.target_modules, str):
            targets = self.parameters.target_modules
            for target in targets:
                if not any(_is_end(target, name) for name in architecture.module_names):
                    raise UserError(
                        f"fine_tuning.parameters.target_modules names {target!r}, which the base model does not have.",
                        hint=did_you_mean(target, architecture.linear_modules),
                    )
                if self._is_unfit(target, architecture):
                    raise UserError(
                        f"fine_tuning.parameters.target_modules names {target!r}, which can't be adapted: its weights "
                        "are used past the layer, it returns more than a tensor, or no text reaches it.",
                        hint=f"These can be: {', '.join(architecture.linear_modules)}.",
                    )
        adapted = [name for name in architecture.module_names if any(_is_end(target, name) for target in targets)]
        for key in ("rank_pattern", "alpha_pattern"):
            _check_patterns(key, getattr(self.parameters, key), adapted)
        self._check_layers(architecture)

    @staticmethod
    def _is_unfit(target: str, architecture: Architecture) -> bool:
        """Return True if a target is a linear layer, and none that can be adapted."""
        last = target.rpartition(".")[2]
        is_linear = any(_is_end(target, name) for name in architecture.linear_layers)
        return is_linear and last not in architecture.linear_modules

    def _check_layers(self, architecture: Architecture) -> None:
        layers = self.parameters.layers_to_transform
        if isinstance(layers, str):
            return
        known = num_blocks(architecture.linear_layers)
        if not layers:
            raise UserError("fine_tuning.parameters.layers_to_transform is empty.", hint="Leave it out for all blocks.")
        for layer in layers:
            if layer >= known:
                raise UserError(
                    f"fine_tuning.parameters.layers_to_transform names block {layer}, but the base model has {known}.",
                    hint=f"Number blocks from 0 to {known - 1}." if known else "Leave it out.",
                )

    def adapter_config(self, model: PreTrainedModel, **common: object) -> PeftConfig:
        """See `PeftMethod.adapter_config`."""
        from peft import LoraConfig  # see PeftMethod.wrap

        return LoraConfig(**common, **self.lora_options(model))

    def lora_options(self, model: PreTrainedModel) -> dict[str, Any]:
        """The arguments of peft's ``LoraConfig`` that the parameters stand for."""
        parameters = self.parameters
        targets = parameters.target_modules
        return {
            "r": parameters.r,
            "lora_alpha": parameters.lora_alpha,
            "lora_dropout": parameters.lora_dropout,
            "exclude_modules": _unreached(model),
            "target_modules": linear_module_names(model) if isinstance(targets, str) else sorted(targets),
            "layers_to_transform": None
            if isinstance(parameters.layers_to_transform, str)
            else sorted(parameters.layers_to_transform),
            "rank_pattern": dict(parameters.rank_pattern),
            "alpha_pattern": dict(parameters.alpha_pattern),
            "use_rslora": parameters.use_rslora,
            "use_dora": parameters.use_dora,
            # GPT-2's linear layers hold their weights transposed.
            "fan_in_fan_out": any(type(module).__name__ == "Conv1D" for module in model.modules()),
        }


def _unreached(model: PreTrainedModel) -> str | None:
    """Return a pattern of the modules that no loss of a text reaches, and whose names blocks may have too.

    They are an encoder's pooling head, and what reads images or sounds. Adapters there would have no gradient, which
    ends a run of several workers.
    """
    patterns = [_POOLER] if any(re.fullmatch(_POOLER, name) for name, _ in model.named_modules()) else []
    if text := text_part(model):
        patterns.append(rf"(?!{re.escape(text)}).*")
    return "|".join(patterns) or None


def num_blocks(module_names: Iterable[str]) -> int:
    """Return the number of a model's blocks, which are numbered in the names of their modules; 0 if none is."""
    return max((int(number) + 1 for name in module_names for number in _NUMBER.findall(name)), default=0)


def _is_end(target: str, name: str) -> bool:
    # peft's own rule for a list: the whole dotted name, or its end.
    return name == target or name.endswith(f".{target}")


def _check_patterns(key: str, patterns: Mapping[str, int], adapted: Iterable[str]) -> None:
    """Check that each pattern means something: peft lets those pass that match nothing."""
    for pattern in patterns:
        try:
            # peft's own rule: the pattern is the whole dotted name, or its end.
            expression = re.compile(rf"(.*\.)?({pattern})$")
        except re.error as error:
            raise UserError(
                f"fine_tuning.parameters.{key} has {pattern!r}, which is no regular expression: {error}.",
                hint="Write module names, or Python's regular expressions.",
            ) from None
        if not any(expression.match(name) for name in adapted):
            raise UserError(
                f"fine_tuning.parameters.{key} has {pattern!r}, which matches no adapted layer of the base model.",
                hint=did_you_mean(pattern, {name.rpartition(".")[2] for name in adapted}),
            )
