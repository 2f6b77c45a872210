"""Bottleneck adapters, and LoRA together with them, as methods of peft, which has neither.

An adapter adds ``scale * up(f(down(x)))`` to the output of a sub-layer: after attention and after the feed-forward
network (Houlsby et al., https://arxiv.org/abs/1902.00751), or after the latter only (Pfeiffer et al.,
https://arxiv.org/abs/2005.00247). ``up`` starts at zero, so that training starts from the base model exactly.

Importing this module makes the two types known to peft; then its own loader reads what was saved::

    import llamafarm_ray.models.bottleneck
    model = PeftModel.from_pretrained(base, folder)

It imports peft, so import it only where an adapter is made or read.
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from peft import LoraConfig, PeftConfig
from peft.tuners.lora import LoraModel
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType, register_peft_method
from torch import nn

from llamafarm_ray.errors import UnsupportedError

__all__ = [
    "NON_LINEARITIES",
    "BottleneckConfig",
    "BottleneckLayer",
    "BottleneckModel",
    "HybridLoraAdapterConfig",
    "HybridLoraAdapterModel",
]

NON_LINEARITIES: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
"""Functions between the two projections."""

_INIT_STD = 0.02
"""Of ``down``, as BERT's weights start; Houlsby et al. use values as small."""


def _declare(name: str) -> None:
    """Make ``name`` a member of peft's enumeration of methods, which its own registration asks for.

    An enumeration with members can't be extended by the language, so this does what its metaclass does.
    """
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_, member._value_ = name, name
    setattr(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member


_declare("BOTTLENECK")
_declare("HYBRID_LORA_ADAPTER")


@dataclass
class BottleneckConfig(PeftConfig):  # type: ignore[misc]  # peft is untyped
    """Contents of ``adapter_config.json`` for bottleneck adapters.

    Args:
        target_modules: a regular expression that matches the dotted names of the layers that adapters follow.
        adapter_type: ``houlsby`` or ``pfeiffer``; said for people, ``target_modules`` is what counts.
        bottleneck_dim: width between the projections.
        non_linearity: a key of `NON_LINEARITIES`.
        adapter_dropout: share of an adapter's input that is dropped while training.
        adapter_scale: factor of an adapter's output.
    """

    target_modules: str | list[str] | None = field(default=None)
    adapter_type: str = field(default="houlsby")
    bottleneck_dim: int = field(default=64)
    non_linearity: str = field(default="relu")
    adapter_dropout: float = field(default=0.0)
    adapter_scale: float = field(default=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.BOTTLENECK


@dataclass
class HybridLoraAdapterConfig(LoraConfig):  # type: ignore[misc]  # peft is untyped
    """LoRA's configuration, and beside it that of bottleneck adapters.

    Args:
        adapter_modules: a regular expression that matches the dotted names of the layers that adapters follow.
        adapter_type: as in `BottleneckConfig`, like all below.
        bottleneck_dim: width between the projections.
        non_linearity: a key of `NON_LINEARITIES`.
        adapter_dropout: share of an adapter's input that is dropped while training.
        adapter_scale: factor of an adapter's output.
    """

    adapter_modules: str = field(default="")
    adapter_type: str = field(default="houlsby")
    bottleneck_dim: int = field(default=64)
    non_linearity: str = field(default="relu")
    adapter_dropout: float = field(default=0.0)
    adapter_scale: float = field(default=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.HYBRID_LORA_ADAPTER


class BottleneckLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]  # peft is untyped
    """A layer followed by adapters; those that are active are applied one after the other.

    Args:
        base_layer: a linear layer, quantised or not, or a LoRA layer around one.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_dropout", "bottleneck_function", "bottleneck_scale")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self.bottleneck_function = nn.ModuleDict()
        self.bottleneck_scale: dict[str, float] = {}
        self._disable_adapters = False
        self._active_adapter: list[str] = []
        self.merged_adapters: list[str] = []

    def add(self, name: str, config: BottleneckConfig | HybridLoraAdapterConfig) -> None:
        """Add an adapter that changes nothing yet."""
        me: Any = self  # what BaseTunerLayer adds is untyped
        layer = me.get_base_layer()
        width = int(layer.out_features if hasattr(layer, "out_features") else layer.nf)
        down, up = nn.Linear(width, config.bottleneck_dim), nn.Linear(config.bottleneck_dim, width)
        nn.init.normal_(down.weight, std=_INIT_STD)
        for parameter in (down.bias, up.weight, up.bias):
            nn.init.zeros_(parameter)
        self.bottleneck_down[name], self.bottleneck_up[name] = down, up
        self.bottleneck_dropout[name] = nn.Dropout(config.adapter_dropout)
        self.bottleneck_function[name] = NON_LINEARITIES[config.non_linearity]()
        self.bottleneck_scale[name] = config.adapter_scale
        me._move_adapter_to_device_of_base_layer(name)  # noqa: SLF001 - peft's helper for its layers

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """See the class. ``x``: (..., inputs of the base layer); returns (..., its outputs)."""
        me: Any = self  # what BaseTunerLayer adds is untyped
        result: torch.Tensor = self.base_layer(x, *args, **kwargs)
        if me.disable_adapters:
            return result
        for name in me.active_adapters:
            if name in self.bottleneck_down:
                down: Any = self.bottleneck_down[name]
                hidden = self.bottleneck_dropout[name](result.to(down.weight.dtype))
                hidden = self.bottleneck_function[name](down(hidden))
                change = self.bottleneck_up[name](hidden) * self.bottleneck_scale[name]
                result = result + change.to(result.dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse.

        Raises:
            UnsupportedError: always.
        """
        del safe_merge, adapter_names
        raise UnsupportedError(
            "Bottleneck adapters can't be merged: between their projections is a non-linearity, so no weight of the "
            "base model could stand for them.",
            hint="Serve the adapter beside its base model.",
        )


class BottleneckModel(BaseTuner):  # type: ignore[misc]  # peft is untyped
    """peft's side of method ``adapter``: puts a `BottleneckLayer` around each layer that the config names."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _create_and_replace(  # noqa: PLR0917 - as peft calls it
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        del current_key, parameter_name
        _follow(self, peft_config, adapter_name, target, place=(parent, target_name))


class HybridLoraAdapterModel(LoraModel):  # type: ignore[misc]  # peft is untyped
    """peft's side of method ``hybrid_lora_adapter``: LoRA in the layers, then adapters after some of them.

    One adapter with one file of weights, rather than two that could be loaded one without the other.
    """

    tuner_layer_cls = (LoraLayer, BottleneckLayer)

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Put LoRA into the model, then the adapters around it."""
        super().inject_adapter(
            model,
            adapter_name,
            autocast_adapter_dtype=autocast_adapter_dtype,
            low_cpu_mem_usage=low_cpu_mem_usage,
            state_dict=state_dict,
        )
        config = self.peft_config[adapter_name]
        with init_empty_weights() if low_cpu_mem_usage else nullcontext():
            for name, target in list(model.named_modules()):
                if re.fullmatch(config.adapter_modules, name):
                    parent, _, last = name.rpartition(".")
                    _follow(self, config, adapter_name, target, place=(model.get_submodule(parent), last))
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _check_merge_allowed(self) -> None:
        BottleneckLayer.merge(self)  # refused before any layer was changed


def _follow(
    tuner: BaseTuner,
    config: BottleneckConfig | HybridLoraAdapterConfig,
    adapter_name: str,
    target: nn.Module,
    *,
    place: tuple[nn.Module, str],
) -> None:
    """Let an adapter follow ``target``, which is at ``place``: the attribute of a module."""
    layer: Any = target if isinstance(target, BottleneckLayer) else BottleneckLayer(target)
    layer.add(adapter_name, config)
    layer.set_adapter(tuner.active_adapters, inference_mode=config.inference_mode)
    if layer is not target:
        setattr(*place, layer)


register_peft_method(name="bottleneck", config_cls=BottleneckConfig, model_cls=BottleneckModel)
register_peft_method(
    name="hybrid_lora_adapter",
    config_cls=HybridLoraAdapterConfig,
    model_cls=HybridLoraAdapterModel,
    prefix=LoraModel.prefix,
)
