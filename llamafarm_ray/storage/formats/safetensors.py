"""The header of a safetensors file, read and checked without reading the tensors.

The format is https://github.com/huggingface/safetensors#format: eight bytes with the header's length, little-endian;
the header in JSON, at most 100 MB; the tensors' bytes, without holes.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeGuard

from llamafarm_ray.errors import InputError

__all__ = ["TensorEntry", "read_tensor_list", "read_tensors"]

_MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSIONS = 64
_MAX_SIZE = 2**63
_PREFIX_BYTES = 8
_DTYPE_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor's name, the format's word for its dtype, its shape, and where in the file its bytes begin and end."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_tensors(path: Path, *, shown: str | None = None) -> tuple[TensorEntry, ...]:
    """Return the tensors of a file's header, in the order of the bytes, checked against the format and the file's size.

    Args:
        shown: its name in errors; by default the path.

    Raises:
        InputError: the file does not follow the format; the message says where.
    """
    with path.open("rb") as file:
        return read_tensor_list(file, path.stat().st_size, shown=shown or str(path))


def read_tensor_list(file: BinaryIO, size_bytes: int, *, shown: str) -> tuple[TensorEntry, ...]:
    """Read and check the header of a file that is open, or of which parts can be fetched; see `read_tensors`.

    Args:
        file: read from its front, and no further than the header.
        size_bytes: length of the whole file.
        shown: its name in errors.

    Raises:
        InputError: the file does not follow the format; the message says where.
    """
    try:
        header, header_bytes = _read_header(file, size_bytes)
        return _tensors(header, _PREFIX_BYTES + header_bytes, size_bytes)
    except ValueError as error:
        raise InputError(
            f"{shown!r} is no sound safetensors file: {error}.", hint="Copy it or save the weights again."
        ) from None


def is_mlx(path: Path) -> bool:
    """Return True if a file says that MLX wrote it; False for one that is not sound, too."""
    try:
        with path.open("rb") as file:
            metadata = _read_header(file, path.stat().st_size)[0].get("__metadata__")
    except (OSError, ValueError):
        return False
    return isinstance(metadata, dict) and metadata.get("format") == "mlx"


def _read_header(file: BinaryIO, size_bytes: int) -> tuple[dict[str, object], int]:
    prefix = file.read(_PREFIX_BYTES)
    if len(prefix) < _PREFIX_BYTES:
        raise ValueError(f"it has {len(prefix)} bytes")
    length = struct.unpack("<Q", prefix)[0]
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"its header would be {length} bytes long")
    if length > size_bytes - _PREFIX_BYTES:
        raise ValueError(f"it is cut off in its header of {length} bytes")
    text = file.read(length)
    if not text.startswith(b"{"):
        raise ValueError("its header does not begin with '{'")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("its header is nested too deep") from None
    return header, length


def _tensors(header: dict[str, object], begin: int, size_bytes: int) -> tuple[TensorEntry, ...]:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its __metadata__ holds something else than texts")
    entries = [_entry(name, tensor, begin) for name, tensor in header.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end, entry.name))
    end = begin
    for entry in entries:
        if entry.begin != end:
            raise ValueError(
                f"before the tensor {entry.name!r} there is {'a hole' if entry.begin > end else 'an overlap'}"
            )
        end = entry.end
    if end != size_bytes:
        raise ValueError(f"its tensors are {end - begin} bytes, but {size_bytes - begin} follow the header")
    return tuple(entries)


def _entry(name: str, tensor: object, data_begin: int) -> TensorEntry:
    """A tensor's entry, checked."""
    if not isinstance(tensor, dict):
        raise ValueError(f"the tensor {name!r} is no object")
    dtype, shape, offsets = tensor.get("dtype"), tensor.get("shape"), tensor.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
        raise ValueError(f"the tensor {name!r} has the unknown dtype {str(dtype)[:40]!r}")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"the tensor {name!r} has a bad shape")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"the tensor {name!r} has bad data_offsets")
    if math.prod(shape) * _DTYPE_BITS[dtype] != (offsets[1] - offsets[0]) * 8:
        raise ValueError(f"the tensor {name!r} has {offsets[1] - offsets[0]} bytes, which is not what its shape needs")
    return TensorEntry(name, dtype, tuple(shape), data_begin + offsets[0], data_begin + offsets[1])


def _are_sizes(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < _MAX_SIZE for value in values)


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("its header has a key twice")
    return made


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"its header holds {text}")
