"""Ends of attention and feed-forward network in a transformer's blocks, for any names of its parts.

Bottleneck adapters act on what these two sub-layers hand on (https://arxiv.org/abs/1902.00751, figure 2). That is the
output of their last linear layer, so a rule about linear layers finds it: in Llama ``self_attn.o_proj`` and
``mlp.down_proj``, in GPT-2 ``attn.c_proj`` and ``mlp.c_proj``, in BERT ``attention.output.dense`` and ``output.dense``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llamafarm_ray.errors import UserError

__all__ = ["BlockOutputs", "find_block_outputs"]

_HINT = "Use method lora, which adapts any linear layer."


@dataclass(frozen=True, slots=True)
class BlockOutputs:
    """The last linear layers of a model's sub-layers.

    Args:
        blocks: the last part of the name of the list of blocks, ``layers``.
        attention: names inside of a block where attention ends; several where blocks are not all alike.
        feed_forward: likewise of the feed-forward network.
    """

    blocks: str
    num_blocks: int
    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]

    def pattern(self, *, after_attention: bool) -> str:
        """A regular expression that matches these layers' dotted names in full, and no others."""
        inside = (*self.attention, *self.feed_forward) if after_attention else self.feed_forward
        names = "|".join(re.escape(name) for name in sorted(set(inside)))
        return rf"(?:.*\.)?{re.escape(self.blocks)}\.\d+\.(?:{names})"


def find_block_outputs(linear_layers: Mapping[str, tuple[int, int]], hidden_size: int | None) -> BlockOutputs:
    """Find the layers by their types, not by a list of known architectures.

    Blocks are the numbered modules that hold most linear layers. Of a block's linear layers as wide as the model's
    hidden vectors, the last one with attention in its name ends attention, and the last other one the feed-forward
    network.

    Args:
        linear_layers: inputs and outputs of each linear layer by its dotted name, in the order of definition.
        hidden_size: the width of what blocks hand on.

    Raises:
        UserError: there are no blocks, or a block lacks one of the two; mixtures of experts have many feed-forward
            networks in a block.
    """
    if hidden_size is None:
        raise UserError("The base model's config.json names no hidden_size, so adapters can't be sized.", hint=_HINT)
    blocks = _blocks(linear_layers)
    if not blocks:
        raise UserError("The base model has no numbered blocks with linear layers to put adapters into.", hint=_HINT)
    ends: dict[str, set[str]] = {"attention": set(), "feed-forward network": set()}
    prefix = next(iter(blocks))[0]
    for (_, number), names in blocks.items():
        wide = [name for name in names if linear_layers[f"{prefix}.{number}.{name}"][1] == hidden_size]
        found = {
            "attention": [name for name in wide if _is_attention(name)],
            "feed-forward network": [name for name in wide if not _is_attention(name) and "expert" not in name],
        }
        for part, candidates in found.items():
            if not candidates:
                raise UserError(
                    f"Block {prefix}.{number} of the base model has no linear layer of {hidden_size} outputs that ends "
                    f"its {part}, so no adapter can follow it; it has {', '.join(names)}.",
                    hint=_HINT,
                )
            ends[part].add(candidates[-1])
    return BlockOutputs(
        blocks=prefix.rpartition(".")[2],
        num_blocks=len(blocks),
        attention=tuple(sorted(ends["attention"])),
        feed_forward=tuple(sorted(ends["feed-forward network"])),
    )


def _blocks(names: Mapping[str, object]) -> dict[tuple[str, int], Sequence[str]]:
    """The names inside of each block, by the name of the list of blocks and the block's number in it."""
    found: dict[tuple[str, int], list[str]] = {}
    for name in names:
        match = re.fullmatch(r"(.+?)\.(\d+)\.(.+)", name)
        if match is not None:
            found.setdefault((match[1], int(match[2])), []).append(match[3])
    sizes = Counter({prefix: 0 for prefix, _ in found})
    for (prefix, _), inside in found.items():
        sizes[prefix] += len(inside)
    largest = max(sizes, key=lambda prefix: sizes[prefix], default=None)
    return {key: inside for key, inside in found.items() if key[0] == largest}


def _is_attention(name: str) -> bool:
    return "attn" in name.lower() or "attention" in name.lower()
