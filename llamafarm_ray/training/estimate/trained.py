"""Weights that a method trains in each block: by linear layer, and their number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llamafarm_ray.config import BOTTLENECK_METHODS, LOW_RANK_METHODS, MethodParameters
from llamafarm_ray.training.estimate.shape import Linear, ModelShape

__all__ = ["Trained"]

_ALIASES = {"c_attn": ("q_proj", "k_proj", "v_proj"), "c_fc": ("up_proj",), "qkv_proj": ("q_proj", "k_proj", "v_proj")}


@dataclass(frozen=True, slots=True)
class Trained:
    """Weights that a method adds to a model, or trains of it."""

    shape: ModelShape
    method: str
    parameters: MethodParameters

    @property
    def is_full(self) -> bool:
        """True if the model's own weights are trained."""
        return self.method == "full"

    @property
    def ranks(self) -> dict[Linear, int]:
        """The linear layers of a block that get a low-rank update, and its rank."""
        if self.method not in LOW_RANK_METHODS:
            return {}
        targets = self.parameters.target_modules
        if isinstance(targets, str):
            chosen = self.shape.linears
        else:
            ends = {part for name in targets for part in (name.rpartition(".")[2],)}
            ends |= {llama for name in ends for llama in _ALIASES.get(name, ())}
            chosen = tuple(linear for linear in self.shape.linears if linear.name in ends)
        return {linear: self._rank(linear.name) for linear in chosen}

    @property
    def num_adapted(self) -> int:
        """Blocks that get low-rank updates."""
        layers = self.parameters.layers_to_transform
        if self.method not in LOW_RANK_METHODS or isinstance(layers, str):
            return self.shape.num_layers
        return len(self._adapted_blocks(layers))

    @property
    def num_reached(self) -> int:
        """Blocks that gradients are propagated through: all from the lowest that has trained weights."""
        layers, blocks = self.parameters.layers_to_transform, self.shape.num_layers
        if self.method not in LOW_RANK_METHODS or self.num_adapters or isinstance(layers, str):
            return blocks
        return blocks - min(self._adapted_blocks(layers), default=blocks)

    def _adapted_blocks(self, layers: Sequence[int]) -> set[int]:
        return {layer for layer in layers if layer < self.shape.num_layers}

    @property
    def num_adapters(self) -> int:
        """Bottleneck adapters of a block."""
        if self.method not in BOTTLENECK_METHODS:
            return 0
        return 2 if self.parameters.adapter_type == "houlsby" else 1

    @property
    def bottleneck(self) -> int:
        """Width of a bottleneck adapter."""
        return self.parameters.bottleneck_dim or max(1, self.shape.hidden_size // self.parameters.reduction_factor)

    @property
    def num_virtual_tokens(self) -> int:
        """Length of a trained prefix; 0 without."""
        return self.parameters.num_virtual_tokens if self.method == "prefix_tuning" else 0

    @property
    def num_parameters(self) -> int:
        """Weights that are trained."""
        if self.is_full:
            return self.shape.num_parameters
        if self.num_virtual_tokens:
            return self._prefix_parameters()
        hidden, width = self.shape.hidden_size, self.bottleneck
        dora = self.parameters.use_dora
        lora = sum(
            rank * (linear.inputs + linear.outputs) + (linear.outputs if dora else 0)
            for linear, rank in self.ranks.items()
        )
        adapters = self.num_adapters * (2 * hidden * width + width + hidden)
        return self.num_adapted * lora + self.shape.num_layers * adapters

    def _rank(self, name: str) -> int:
        for pattern, rank in self.parameters.rank_pattern.items():
            if re.fullmatch(rf"(.*\.)?{pattern}", name):
                return rank
        return self.parameters.r

    def _prefix_parameters(self) -> int:
        """As peft's PrefixEncoder: keys and values of every layer, or a two-layer network that makes them."""
        shape, tokens = self.shape, self.num_virtual_tokens
        made = shape.num_layers * 2 * shape.kv_size
        if not self.parameters.prefix_projection:
            return tokens * made
        width, inner = shape.kv_size, self.parameters.encoder_hidden_size or shape.hidden_size
        return tokens * width + width * inner + inner + inner * made + made
