"""An ONNX file's structure and references, checked without a runtime.

The format is https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, a protocol buffer
(https://protobuf.dev/programming-guides/encoding). Read here are the messages on the way to tensors, since a tensor can
have its bytes in another file: which must lie beside the model's, and be part of the version.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llamafarm_ray.errors import InputError

__all__ = ["check_onnx"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_MAX_DEPTH = 32
_TENSOR, _ENTRY = "tensor", "entry"
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {13: _ENTRY},
}
"""Fields of messages that hold messages that lead to tensors."""
_IR_VERSION, _GRAPH = 1, 7
_KEY, _VALUE = 1, 2


@dataclass(slots=True)
class _Found:
    """Findings of the walk."""

    model_fields: set[int] = field(default_factory=set)
    files: set[bytes] = field(default_factory=set)


def check_onnx(path: Path) -> None:
    """Check that a file is an ONNX model, and that every other file it takes tensors from lies beside it.

    Raises:
        InputError: it is cut off or no such model, or names a file elsewhere or one that is not there.
    """
    try:
        found = _read(path)
        for name in found.files:
            _check_file(path, name)
    except ValueError as error:
        raise InputError(f"{str(path)!r} is no sound ONNX file: {error}.", hint="Copy or export it again.") from None


def _read(path: Path) -> _Found:
    found = _Found()
    if path.stat().st_size == 0:
        raise ValueError("it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _walk(data, "model", (0, len(data)), found, depth=0)
    if not found.model_fields >= {_IR_VERSION, _GRAPH}:
        raise ValueError("it has no ir_version or no graph")
    return found


def _check_file(path: Path, name: bytes) -> None:
    text = name.decode()
    beside = path.parent / text
    if text != beside.name or not text.strip(".") or "\\" in text or "\0" in text:
        raise ValueError(f"it takes tensors from {text[:120]!r}, which is no plain file name")
    if beside.is_symlink() or not beside.is_file():
        raise ValueError(f"it takes tensors from {text[:120]!r}, which is not there")


def _walk(data: mmap.mmap, kind: str, span: tuple[int, int], found: _Found, *, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
    for number, begin, end in _fields(data, *span):
        if kind == "model":
            found.model_fields.add(number)
        inner = _INSIDE[kind].get(number)
        if inner is None or begin < 0:
            continue
        if inner == _ENTRY:
            pair = {key: data[first:last] for key, first, last in _fields(data, begin, end) if first >= 0}
            if pair.get(_KEY) == b"location":
                found.files.add(pair.get(_VALUE, b""))
        else:
            _walk(data, inner, (begin, end), found, depth=depth + 1)


def _fields(data: mmap.mmap, place: int, end: int) -> Iterator[tuple[int, int, int]]:
    """A message's fields: each one's number and where its bytes begin and end, -1 where it is a number."""
    while place < end:
        tag, place = _varint(data, place, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("it is no protocol buffer")
        if wire == _VARINT:
            _, place = _varint(data, place, end)
            yield number, -1, -1
        elif wire == _BYTES:
            length, place = _varint(data, place, end)
            if length > end - place:
                raise ValueError(f"it is cut off, or says that {length} bytes follow where {end - place} do")
            yield number, place, place + length
            place += length
        elif wire in {_FIXED64, _FIXED32}:
            place += 8 if wire == _FIXED64 else 4
            if place > end:
                raise ValueError("it is cut off")
            yield number, -1, -1
        else:
            raise ValueError("it is no protocol buffer")


def _varint(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if place + index >= end:
            raise ValueError("it is cut off")
        byte = data[place + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # the bit that says that more bytes follow
            return value, place + index + 1
    raise ValueError("it has a number that is too long")
