"""Model FLOPs utilisation (MFU): the share of the devices' arithmetic that a run uses.

Counted as in appendix B of "PaLM: Scaling Language Modeling with Pathways" (Chowdhery et al. 2022), after section 2.1
of "Scaling Laws for Neural Language Models" (Kaplan et al. 2020). A multiplication with a weight matrix is two
operations (multiply, add) a token and weight in the forward pass, two more for the gradient of its input and, only
where the weight is trained, two more for the gradient of the weight: 6 a trained weight, 4 a frozen one. Attention
multiplies queries with keys and probabilities with values: 4 * width * context forward and twice that backward, so 12 *
layers * width * context, in full although half of it is masked, as PaLM counts. Looking up an embedding costs nothing,
the output head counts, normalisations and activations are left out. Gradient checkpointing's second computation is no
work of the model, so it lowers MFU.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ModelFlops", "peak_flops_per_s", "training_flops_per_token"]

_FORWARD_AND_INPUT_GRADIENT = 4
_WITH_WEIGHT_GRADIENT = 6
_ATTENTION = 12
_SHAPE = ("num_hidden_layers", "num_attention_heads", "hidden_size")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True)
class ModelFlops:
    """Operations of a token, and the devices' peak.

    Args:
        per_token: floating point operations to train on one token.
        peak_per_s: peak operations a second of all devices together.
    """

    per_token: float
    peak_per_s: float

    @classmethod
    def of(
        cls, model: PreTrainedModel, *, context_tokens: float, device_name: str, precision: str, num_devices: int
    ) -> Self | None:
        """For a model ready to be trained, weights frozen and adapters in place.

        Args:
            model: a transformers or peft model; its weights may be sharded or quantised.
            context_tokens: mean length of sequences: over tokens, of the row they are in.
            device_name: as ``torch.cuda.get_device_name()`` says it; empty on CPU.
            precision: ``bf16``, ``fp16`` or ``fp32``.
            num_devices: devices of the run.

        Returns:
            None where no honest number is known: on CPU, an unknown device, a mixture of experts, no attention.
        """
        peak = peak_flops_per_s(device_name, precision)
        per_token = training_flops_per_token(model, context_tokens=context_tokens)
        if peak is None or per_token is None:
            return None
        return cls(per_token, peak * num_devices)

    def utilisation(self, tokens_per_s: float) -> float:
        """MFU, 0 to 1, at a speed over all devices."""
        return self.per_token * tokens_per_s / self.peak_per_s


def training_flops_per_token(model: PreTrainedModel, *, context_tokens: float) -> float | None:
    """Floating point operations to train a dense decoder on one token, by the formula above.

    Args:
        model: a transformers or peft model, its trained weights requiring gradients.
        context_tokens: see `ModelFlops.of`.

    Returns:
        None for a mixture of experts, whose tokens don't meet every weight, and for models without attention.
    """
    config = model.config.get_text_config()  # of a model that reads pictures too, the part that is trained
    if any((getattr(config, name, None) or 0) > 1 for name in _EXPERTS):
        return None
    if any(getattr(config, name, None) is None for name in _SHAPE):
        return None
    matrices = 0
    for module in model.modules():
        num_weights = _num_weights(module)
        if num_weights:
            trained = module.weight.requires_grad
            matrices += num_weights * (_WITH_WEIGHT_GRADIENT if trained else _FORWARD_AND_INPUT_GRADIENT)
    num_heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    return float(matrices + _ATTENTION * config.num_hidden_layers * num_heads * head_size * context_tokens)


def _num_weights(module: PreTrainedModel) -> int:
    """Weights of a matrix that tokens are multiplied with; from its shape, as they may be elsewhere or packed."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features * module.out_features
    if type(module).__name__ == "Conv1D":  # GPT-2's linear layer
        return int(module.nx * module.nf)
    return 0


def peak_flops_per_s(device_name: str, precision: str) -> float | None:
    """A device's peak, dense, in operations per second; None if it is not in the table.

    Args:
        device_name: such as ``"NVIDIA H100 80GB HBM3"``.
        precision: ``bf16``, ``fp16`` or ``fp32``.
    """
    words = set(re.findall(r"[a-z0-9]+", device_name.lower()))
    for device in _table():
        # "H100" is a word of its own; "A100-SXM4-40GB" and "GeForce RTX 4090" split into words too.
        if words.issuperset(device["words"]):
            peak = device.get(precision)
            return None if peak is None else float(peak) * 1e12
    return None


@functools.cache
def _table() -> list[dict[str, Any]]:
    text = importlib.resources.files(__package__).joinpath("peak_flops.json").read_text(encoding="utf-8")
    devices: list[dict[str, object]] = json.loads(text)["devices"]
    return devices
