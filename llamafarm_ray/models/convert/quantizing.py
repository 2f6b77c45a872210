"""Weights as blocks of few bits: by ``gguf`` where it can, else by ggml itself, from llama.cpp's shared library."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from llamafarm_ray.errors import UnsupportedError

__all__ = ["encoded"]

_PLAIN = {GGMLQuantizationType.F32, GGMLQuantizationType.F16}
_ROWS_AT_ONCE_BYTES = 1 << 19
"""Of numbers in 32 bits: at the end, a core waits for another for no longer than these take, about 10 ms."""


def encoded(
    values: NDArray[np.float32], kind: GGMLQuantizationType, importance: NDArray[np.float32] | None = None
) -> NDArray[Any]:
    """Return a matrix in a type of tensor: as numbers, or as bytes of blocks.

    Args:
        values: shape (..., width), where the width is a multiple of the type's block.
        importance: weight of each column's squared error; without it, the type's own.

    Raises:
        UnsupportedError: the type needs llama.cpp, which is not installed.
    """
    if kind in _PLAIN:
        return np.asarray(gguf.quants.quantize(values, kind))
    if kind is GGMLQuantizationType.BF16:  # the same bytes by torch, in a quarter of the time
        return np.asarray(torch.from_numpy(values).to(torch.bfloat16).view(torch.uint8).numpy())
    quantize = _ggml_quantize()
    if quantize is None:
        try:
            return np.asarray(gguf.quants.quantize(values, kind))
        except NotImplementedError:
            raise UnsupportedError(
                f"Type {kind.name} needs llama.cpp, which is not installed.", hint="pip install 'llamafarm_ray[gguf]'"
            ) from None
    num_values, block_bytes = GGML_QUANT_SIZES[kind]
    width = values.shape[-1]
    rows = np.ascontiguousarray(values, dtype=np.float32).reshape(-1, width)
    made = np.empty((len(rows), width // num_values * block_bytes), dtype=np.uint8)
    weights = None if importance is None else importance.ctypes.data
    step = max(1, _ROWS_AT_ONCE_BYTES // (4 * width))

    def one(begin: int) -> None:
        part, target = rows[begin : begin + step], made[begin : begin + step]
        quantize(int(kind), part.ctypes.data, target.ctypes.data, 0, len(part), width, weights)

    with ThreadPoolExecutor(max_workers=_num_cores()) as pool:  # ctypes lets go of the interpreter's lock
        list(pool.map(one, range(0, len(rows), step)))
    return made.reshape(*values.shape[:-1], -1)


@functools.cache
def _ggml_quantize() -> Any:
    """Return ggml's ``ggml_quantize_chunk``; ``None`` if llama.cpp is not installed."""
    found = importlib.util.find_spec("xllamacpp")
    if found is None or found.origin is None:
        return None
    library = next(Path(found.origin).parent.glob("xllamacpp*.so"), None)
    if library is None:
        return None
    function = ctypes.CDLL(str(library)).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = (ctypes.c_int, pointer, pointer, number, number, number, pointer)
    return function


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
