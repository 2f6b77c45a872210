"""The header of a GGUF file: read without the tensors, and checked against the format and the file's size.

The format is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: magic, version, how many tensors and how many
facts follow; the facts as typed pairs; the tensors' names, shapes, types and places; then their bytes, aligned.
llama.cpp ends its process on some files that break these rules, so nothing is handed to it that was not read here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from llamafarm_ray.errors import InputError

__all__ = ["GgufHeader", "GgufTensor", "read_gguf", "read_gguf_header"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMENSIONS = 4
_MAX_SIZE = 2**63
_MAX_KEY_BYTES = 65535
_MAX_LIST = 2**22
"""Values of all lists together; a vocabulary of 256,000 tokens with its scores, kinds and merges has 1.3 million."""
_MAX_HEADER_BYTES = 2**28
"""Of a header, a vocabulary of 256,000 tokens with its merges takes 12 MB."""
_MAX_TENSORS = 2**20
_MAX_FACTS = 2**16
_STRING, _ARRAY = 8, 9
_POOLINGS = frozenset({1, 2, 3})
"""Mean, first and last token: llama.cpp's numbers for how a text's vector is made."""
_NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
"""Codes of ``struct`` for each type of number."""
_BLOCK_BYTES = {
    1: {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2},
    32: {2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 9: 40, 20: 18, 39: 17},
    64: {40: 36},
    128: {41: 18},
    256: {10: 84, 11: 110, 12: 144, 13: 176, 14: 210, 15: 292, 16: 66, 17: 74, 18: 98, 19: 50, 21: 110, 22: 82}
    | {23: 136, 29: 56, 34: 54, 35: 66},
}
"""By how many values a block of a tensor has: the types of tensor, and a block's bytes.

These are ``GGML_QUANT_SIZES`` of llama.cpp's gguf-py.
"""
_BLOCKS = {kind: (num, size) for num, sizes in _BLOCK_BYTES.items() for kind, size in sizes.items()}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of a file.

    Attributes:
        shape: the fastest dimension first.
        kind: llama.cpp's number of its type.
        begin: the place of its first byte in the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    begin: int
    size_bytes: int

    @property
    def end(self) -> int:
        """The place after its last byte."""
        return self.begin + self.size_bytes


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Header of a file.

    Attributes:
        facts: its pairs, ``general.architecture`` among them.
        entries: its tensors, in the file's order.
    """

    facts: Mapping[str, Any]
    entries: tuple[GgufTensor, ...]

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, the fastest dimension first."""
        return {tensor.name: tensor.shape for tensor in self.entries}

    @property
    def architecture(self) -> str:
        """Such as ``llama``, which prefixes the architecture's own facts."""
        return str(self.facts.get("general.architecture", ""))

    @property
    def is_adapter(self) -> bool:
        """True if it holds a low-rank update of another file's model."""
        return bool(self.facts.get("general.type") == "adapter")

    @property
    def gives_vectors(self) -> bool:
        """True if it names a pooling, as converters write it for embedding models."""
        return self.of_architecture("pooling_type") in _POOLINGS

    def of_architecture(self, name: str) -> Any:
        """A fact such as ``context_length``; ``None`` where there is none."""
        return self.facts.get(f"{self.architecture}.{name}")


def read_gguf(path: Path) -> GgufHeader:
    """Read and check a file's header.

    Raises:
        InputError: the file does not follow the format; the message says where.
    """
    with path.open("rb") as file:
        return read_gguf_header(file, path.stat().st_size, shown=str(path))


def read_gguf_header(file: BinaryIO, size_bytes: int, *, shown: str) -> GgufHeader:
    """Read and check the header of a file that is open, or of which parts can be fetched.

    Args:
        file: read from its front, and no further than the header.
        size_bytes: length of the whole file.
        shown: its name in errors.

    Raises:
        InputError: the file does not follow the format; the message says where.
    """
    try:
        return _read(_Reader(file, size_bytes), size_bytes)
    except (ValueError, struct.error) as error:
        raise InputError(
            f"{shown!r} is no sound GGUF file: {error}.", hint="Copy it or convert the model again."
        ) from None


class _Reader:
    """Takes values from the front of a file, and never more than there is."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self.left = size_bytes
        self._header_left = _MAX_HEADER_BYTES
        self._values_left = _MAX_LIST

    def take(self, size_bytes: int) -> bytes:
        if size_bytes > self.left:
            raise ValueError(f"it is cut off, or says that {size_bytes} bytes follow where {self.left} do")
        if size_bytes > self._header_left:
            raise ValueError(f"its header is longer than {_MAX_HEADER_BYTES} bytes")
        self.left -= size_bytes
        self._header_left -= size_bytes
        return self._file.read(size_bytes)

    def number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))[0]

    def text(self, longest: int = _MAX_SIZE) -> str:
        length = self.number("Q")
        if length > longest:
            raise ValueError(f"it has a name of {length} bytes")
        return self.take(length).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array()
        return self.number(_number_kind(kind))

    def _array(self) -> list[object]:
        kind, length = self.number("I"), self.number("Q")
        if kind == _ARRAY:
            raise ValueError("it has a list of lists")
        if length > self._values_left:
            raise ValueError(f"it has a list of {length} values, and at most {_MAX_LIST} are read in all lists")
        self._values_left -= length
        if kind == _STRING:
            return [self.text() for _ in range(length)]
        code = _number_kind(kind)
        return list(struct.unpack(f"<{length}{code}", self.take(length * struct.calcsize(f"<{code}"))))


def _read(reader: _Reader, size_bytes: int) -> GgufHeader:
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise ValueError("it does not begin with 'GGUF'")
    version = reader.number("I")
    if version not in _VERSIONS:
        raise ValueError(f"its version is {version}, and 2 and 3 are read")
    num_tensors, num_facts = reader.number("Q"), reader.number("Q")
    if num_tensors + num_facts > reader.left:
        raise ValueError(f"it says that {num_tensors} tensors and {num_facts} facts follow in {reader.left} bytes")
    if num_tensors > _MAX_TENSORS or num_facts > _MAX_FACTS:
        raise ValueError(f"it says that it has {num_tensors} tensors and {num_facts} facts, more than any model")
    facts: dict[str, Any] = {}
    for _ in range(num_facts):
        name = reader.text(_MAX_KEY_BYTES)
        if name in facts:
            raise ValueError(f"it has the fact {name!r} twice")
        facts[name] = reader.value(reader.number("I"))
    if not isinstance(facts.get("general.architecture"), str):
        raise ValueError("it names no general.architecture")
    tensors = [_tensor(reader) for _ in range(num_tensors)]
    alignment = facts.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"its general.alignment is {alignment!r}")
    data_begin = math.ceil((size_bytes - reader.left) / alignment) * alignment
    _check_places(tensors, size_bytes - data_begin, alignment)
    return GgufHeader(facts, tuple(replace(tensor, begin=data_begin + tensor.begin) for tensor in tensors))


def _tensor(reader: _Reader) -> GgufTensor:
    """Read a tensor's entry; its place counts from the end of the header."""
    name, num_dimensions = reader.text(_MAX_KEY_BYTES), reader.number("I")
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise ValueError(f"the tensor {name!r} has {num_dimensions} dimensions")
    shape = tuple(reader.number("Q") for _ in range(num_dimensions))
    kind, begin = reader.number("I"), reader.number("Q")
    if kind not in _BLOCKS:
        raise ValueError(f"the tensor {name!r} has the unknown type {kind}")
    num_values, block_bytes = _BLOCKS[kind]
    if 0 in shape or shape[0] % num_values or math.prod(shape) >= _MAX_SIZE:
        raise ValueError(f"the tensor {name!r} has the bad shape {shape}")
    return GgufTensor(name, shape, kind, begin, math.prod(shape) // num_values * block_bytes)


def _check_places(tensors: list[GgufTensor], data_bytes: int, alignment: int) -> None:
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.begin):
        if tensor.begin % alignment or tensor.begin < end or tensor.end > data_bytes:
            raise ValueError(
                f"the tensor {tensor.name!r} is at {tensor.begin} to {tensor.end}, which is not aligned, overlaps "
                f"another or is beyond the {max(0, data_bytes)} bytes that follow the header"
            )
        end = tensor.end
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ValueError("it has a tensor twice")


def _number_kind(kind: int) -> str:
    if kind not in _NUMBERS:
        raise ValueError(f"it has a fact of the unknown type {kind}")
    return _NUMBERS[kind]
