"""Predicted speed and memory of a model on a device: a roofline of its memory's bandwidth and its arithmetic.

Writing a token reads all weights once, and the keys and values of the tokens before it. Reading a prompt computes two
operations a parameter and token.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamafarm_ray.serving.optimize.devices import Device, DeviceTable

__all__ = ["Form", "Prediction", "predict"]

_RESERVED_GIB = 1.5
"""Memory that an engine's own code and buffers take."""
_OPERATIONS = 2
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Form:
    """A model's files in one format.

    Attributes:
        reference: reference for `deploy`; empty for forms that are not made yet.
        scheme: the quantization scheme; empty for unquantized weights.
        is_gguf: True for a GGUF file.
        weight_bytes: in memory, in the format that the device computes in.
        token_bytes: of keys and values of a token, in 16 bits.
        quality: see `llamafarm_ray.models.quantize.quality`; 1 for the model itself.
    """

    reference: str
    scheme: str
    is_gguf: bool
    num_parameters: int
    weight_bytes: int
    token_bytes: int
    quality: float = 1.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted serving of a form.

    Attributes:
        memory_bytes: weights, keys and values of all answers, and the engine.
        fits: True if the device has that memory.
        tokens_per_s: of all answers that are written at the same time.
        first_token_s: seconds until the first token of an answer to a prompt.
        has_small_cache: True if keys and values have 8 bits, since they do not fit in 16.
    """

    form: Form
    memory_bytes: int
    fits: bool
    tokens_per_s: float
    first_token_s: float
    has_small_cache: bool = False


def predict(
    form: Form, device: Device, table: DeviceTable, *, concurrency: int, max_model_len: int, prompt_tokens: int
) -> Prediction:
    """Predict the serving of a form on a device.

    Args:
        concurrency: answers that are written at the same time.
        max_model_len: the longest prompt with its answer, in tokens; memory is set aside for it.
    """
    there = device.memory_gib * _GIB

    def needed(token_bytes: int) -> int:
        return form.weight_bytes + token_bytes * max_model_len * concurrency + int(_RESERVED_GIB * _GIB)

    half = form.token_bytes // 2
    has_small_cache = device.has_small_cache and needed(form.token_bytes) > there >= needed(half)
    token_bytes = half if has_small_cache else form.token_bytes
    memory = needed(token_bytes)
    read = form.weight_bytes + token_bytes * prompt_tokens * concurrency
    by_memory = table.bandwidth_share * device.bandwidth_gbs * 1e9 / read * concurrency
    operations = table.compute_share * device.tflops * 1e12 / (_OPERATIONS * form.num_parameters)
    return Prediction(
        form,
        memory,
        memory <= there,
        min(by_memory, operations),
        prompt_tokens / operations,
        has_small_cache,
    )
