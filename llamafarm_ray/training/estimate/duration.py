"""Duration and cost of a run: operations over the speed that training reaches.

A token's forward pass costs 2 operations for each weight of a matrix product, and its backward pass as many for the
gradient by activations and again for the gradient by weights, which frozen weights don't have: 6 a weight for full
fine-tuning (https://arxiv.org/abs/2001.08361), 4 for adapters over a frozen model. Attention's scores and sums cost
2 s q a block and token forward, with s the length and half of it masked, and twice that backward. Checkpointing adds a
forward pass (https://arxiv.org/abs/2205.05198).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from llamafarm_ray.training.estimate.machine import Machine
from llamafarm_ray.training.estimate.setup import Setup
from llamafarm_ray.training.estimate.shape import ModelShape
from llamafarm_ray.training.estimate.tables import Tables
from llamafarm_ray.training.estimate.trained import Trained

__all__ = ["DurationEstimate", "estimate_duration", "flops_per_token"]

_QLORA_SLOWDOWN = 1.2
"""Dequantising in both passes: about a fifth longer on the GPUs of the QLoRA paper's follow-ups; an assumption."""


@dataclass(frozen=True, slots=True)
class DurationEstimate:
    """Time and money.

    Args:
        tokens_per_s: of all devices together.
        seconds: of the training itself, without loading and saving.
        dollars: for all devices; None where the price is unknown.
    """

    tokens: int
    tokens_per_s: float
    seconds: float
    dollars: float | None

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def flops_per_token(shape: ModelShape, setup: Setup) -> float:
    """Operations that one token of a step costs, forward and backward."""
    trained = Trained(shape, setup.method, setup.parameters)
    products = shape.linear_weights + shape.embedding_weights * setup.positions / setup.tokens
    length = min(setup.max_length, setup.tokens) + trained.num_virtual_tokens
    attention = 2.0 * shape.num_layers * shape.query_size * length
    forward = 2.0 * products + attention
    by_weights = 2.0 * products if trained.is_full else 4.0 * trained.num_parameters
    # Of the blocks: below those adapted nothing needs a gradient, but where activations are computed again.
    share = 1.0 if setup.gradient_checkpointing else trained.num_reached / shape.num_layers
    head = products - shape.linear_weights
    backward = 2.0 * (shape.linear_weights * share + head) + 2.0 * attention * share + by_weights
    extra = 0.0 if trained.is_full or trained.num_virtual_tokens else 2.0 * trained.num_parameters
    again = forward if setup.gradient_checkpointing else 0.0
    return forward + backward + again + extra


def estimate_duration(
    shape: ModelShape, setup: Setup, machine: Machine, tables: Tables, *, num_tokens: int
) -> DurationEstimate:
    """Time and cost of training on ``num_tokens`` tokens.

    Args:
        machine: ``setup.num_workers`` of its devices are used.
        tables: assumed figures of several workers and of offloading.
        num_tokens: rows times epochs times their length.
    """
    speed = machine.reached_flops(setup.precision) * setup.num_workers
    if setup.num_workers > 1:
        speed *= tables.scaling[setup.strategy]
    speed /= tables.offload_slowdown[setup.offload]
    if setup.method == "qlora":
        speed /= _QLORA_SLOWDOWN
    tokens_per_s = speed / flops_per_token(shape, setup)
    seconds = num_tokens / tokens_per_s
    price = machine.price_per_hour
    dollars = None if price is None else price * setup.num_workers * seconds / 3600
    return DurationEstimate(num_tokens, tokens_per_s, seconds, dollars)
