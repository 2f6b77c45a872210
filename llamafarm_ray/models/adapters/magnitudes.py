"""Bounds on the size of an adapter's updates: weights that are finite can still overflow when they are multiplied.

A module's update is ``scale * B * (A * x)``. Its entries are at most ``|scale| * |B A| * |x|`` in Frobenius and
Euclidean norms, and a normalised input of ``n`` features has the norm ``sqrt(n)``. So the size of an update is bounded
by ``|scale| * |B A| * sqrt(n)``, and compared with the dtype that it is computed in:

- float16 must hold the update itself: 65,504.
- bfloat16 and float32 reach 3.4e38. Before it is normalised again, a hidden vector can hold a product of three updates
  (gate, up and down projection), which the next norm squares: so the limit is the sixth root of that, 2.6e6.

Training reaches neither: a base's weight matrix of 4096 x 4096 has a bound of some 5,000 itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.adapters.config import WEIGHTS, AdapterConfig
from llamafarm_ray.models.adapters.headers import PREFIX
from llamafarm_ray.storage.formats.finite import NotFinite
from llamafarm_ray.storage.formats.safetensors import TensorEntry

__all__ = ["WEIGHT_DTYPES", "check_magnitudes", "pairs", "read_values"]

WEIGHT_DTYPES = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
"""The dtypes that an adapter's weights may have, as safetensors and numpy spell them."""

_MAX_F16 = 65_504.0
_MAX_F32 = 3.4e38
_PAIRS = {
    "lora_A.weight": "lora_B.weight",
    "lora_embedding_A": "lora_embedding_B",
    "bottleneck_down.weight": "bottleneck_up.weight",
}
"""The tensors that are multiplied with each other, the first one applied first."""
_HINT = "Train it again with a lower learning rate, or correct lora_alpha."

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Limits:
    """The largest value of a dtype, and the largest bound of an update that is computed in it."""

    dtype: str
    value: float
    update: float

    @classmethod
    def of(cls, dtype: str) -> _Limits:
        if dtype == "float16":
            return cls(dtype, _MAX_F16, _MAX_F16)
        return cls(dtype, _MAX_F32, _MAX_F32 ** (1 / 6))


def check_magnitudes(path: Path, tensors: Mapping[str, TensorEntry], config: AdapterConfig, dtype: str) -> None:
    """Read an adapter's weights once and check that no update of them overflows.

    Args:
        tensors: its header.
        dtype: the dtype that it is served in, as torch names it.

    Raises:
        InputError: a value is NaN or infinite, or an update is too large; it names no folder.
        OSError: the file can't be read.
    """
    limits, left = _Limits.of(dtype), dict(tensors)
    with path.open("rb") as file:
        for first, second in pairs(tensors):
            del left[first], left[second]
            values = {name: read_values(file, tensors[name]) for name in (first, second)}
            _check_update(values, config, limits)
        for name, tensor in left.items():
            largest = _largest(name, read_values(file, tensor))
            if largest > limits.update:
                raise InputError(
                    f"The tensor {name!r} has values of {largest:.1e}; {limits.dtype} allows {limits.update:.1e}.",
                    hint=_HINT,
                )


def pairs(tensors: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the names of the two matrices of each update, the one that is applied first before the other."""
    for name in tensors:
        for first, second in _PAIRS.items():
            other = name.removesuffix(first) + second
            if name.endswith(f".{first}") and other in tensors:
                yield name, other


def _check_update(values: Mapping[str, Values], config: AdapterConfig, limits: _Limits) -> None:
    """Check the two matrices of an update, by their names; the one that is applied first comes first."""
    (name, first), (second_name, second) = values.items()
    module = name.removeprefix(PREFIX).rpartition(".lora_")[0].removesuffix(".base_layer")
    scale = abs(config.scale_of(module)) if ".lora_" in name else abs(float(config.values.get("adapter_scale", 1.0)))
    sizes = _largest(name, first), _largest(second_name, second) * max(1.0, scale)
    num_inputs = first.shape[1] if "lora_embedding" not in name else 1  # a token is one row of an embedding
    with np.errstate(over="ignore", invalid="ignore"):
        norm = float(np.linalg.norm(first) * np.linalg.norm(second))
        if scale * norm * math.sqrt(num_inputs) > limits.update and len(first.shape) == len(second.shape) == 2:
            norm = _norm_of_product(second, first)
        bound = scale * norm * math.sqrt(num_inputs)
    if not (max(sizes) <= limits.value and bound <= limits.update):
        raise InputError(
            f"The update of {module} can be as large as {bound:.1e} (scale {scale:.1e}); {limits.dtype} allows "
            f"{limits.update:.1e}, and answers would overflow to NaN.",
            hint=_HINT,
        )


def _norm_of_product(left: Values, right: Values) -> float:
    """Return the Frobenius norm of a product by its factors' Gram matrices, which are as small as its rank."""
    return math.sqrt(max(0.0, float(np.sum((left.T @ left) * (right @ right.T)))))


def _largest(name: str, values: Values) -> float:
    largest = float(np.max(np.abs(values)))
    if not math.isfinite(largest):
        num_bad = values.size - int(np.count_nonzero(np.isfinite(values)))
        raise InputError(
            f"It is no usable adapter: {NotFinite(WEIGHTS, name, values.size, num_bad)}.",
            hint="Train it again, with a lower learning rate if its loss was no number, or export it again.",
        )
    return largest


def read_values(file: BinaryIO, tensor: TensorEntry) -> Values:
    """Return a tensor's values; of a stack of matrices, each is a row."""
    file.seek(tensor.begin)
    data = file.read(tensor.end - tensor.begin)
    if len(data) < tensor.end - tensor.begin:
        raise InputError("The weights were cut off while they were read.", hint="Copy the file again.")
    values = np.frombuffer(data, np.dtype(WEIGHT_DTYPES[tensor.dtype]))
    if tensor.dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(tensor.shape).astype(np.float64)
