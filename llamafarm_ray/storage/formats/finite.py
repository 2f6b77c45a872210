"""Search for NaN and infinities in safetensors files: one of them makes every answer garbage.

The bits are examined, so that no dtype needs a library that supports it. Pieces are read, not mapped: a file that is
cut while it is mapped ends the process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.formats.safetensors import TensorEntry, read_tensors

__all__ = ["NotFinite", "find_not_finite"]

_PIECE_BYTES = 2**20
"""Small enough for a core's cache, and whole words of every dtype."""
_SHOWN = 120

# A word is no finite number where these bits of it (the second) are these (the third). In IEEE 754's formats, and in
# bfloat16 and E5M2, which are cut from those, that is where all bits of the exponent are set. The others have no
# infinity: https://arxiv.org/abs/2209.05433 (E4M3), OCP's MX specification (E8M0, a scale's exponent) and MLIR's
# types (FNUZ). 4 and 6 bits have no NaN either.
_RULES = {
    **dict.fromkeys(("F32", "C64"), ("<u4", 0x7F80_0000, 0x7F80_0000)),
    "F64": ("<u8", 0x7FF0_0000_0000_0000, 0x7FF0_0000_0000_0000),
    "F16": ("<u2", 0x7C00, 0x7C00),
    "BF16": ("<u2", 0x7F80, 0x7F80),
    "F8_E5M2": ("u1", 0x7C, 0x7C),
    "F8_E4M3": ("u1", 0x7F, 0x7F),
    "F8_E8M0": ("u1", 0xFF, 0xFF),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), ("u1", 0xFF, 0x80)),
}


@dataclass(frozen=True, slots=True)
class NotFinite:
    """A tensor with a NaN or an infinity in it; as a text, the finding."""

    file: str
    tensor: str
    num_values: int
    num_not_finite: int

    def __str__(self) -> str:
        values = f"{self.num_not_finite} of the {self.num_values} values"
        return f"{values} of the tensor {self.tensor[:_SHOWN]!r} in {self.file} are NaN or infinite"


def find_not_finite(paths: Iterable[Path]) -> NotFinite | None:
    """The first tensor of safetensors files that holds a NaN or an infinity; ``None`` where all are numbers.

    Raises:
        InputError: a file is no sound safetensors file, or is cut off while it is read; it names no folder.
        OSError: a file can't be read.
    """
    for path in paths:
        with path.open("rb") as file:
            for tensor in read_tensors(path, shown=path.name):
                if tensor.dtype in _RULES and (found := _look(file, path.name, tensor)):
                    return found
    return None


def _look(file: BinaryIO, name: str, tensor: TensorEntry) -> NotFinite | None:
    kind, bits, pattern = _RULES[tensor.dtype]
    word = np.dtype(kind)
    file.seek(tensor.begin)
    num_found, left = 0, tensor.end - tensor.begin
    while left:
        piece = file.read(min(left, _PIECE_BYTES))
        if len(piece) < min(left, _PIECE_BYTES):
            raise InputError(f"{name} was cut off while it was read.", hint="Copy it again.")
        left -= len(piece)
        words = np.frombuffer(piece, word)
        num_found += int(np.count_nonzero((words & word.type(bits)) == word.type(pattern)))
    num_values = (tensor.end - tensor.begin) // word.itemsize
    return NotFinite(name, tensor.name, num_values, num_found) if num_found else None
