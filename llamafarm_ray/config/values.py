"""Small values with a spelling of their own: ``>0.7``, ``32Gi``, ``1x_a100``. The spelling is kept."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, Self

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

__all__ = ["Comparison", "ComparisonField", "FrozenMapping", "Gpu", "GpuField", "MemoryField", "MemorySize"]

_OPERATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_NUMBER = r"\d{1,9}(?:\.\d{1,9})?"
_COMPARISON_FORM = rf"(>=|<=|>|<)\s*(-?{_NUMBER})"
_MEMORY_FORM = rf"({_NUMBER})\s?(?:([kKMGT]i?)B?)"
_GPU_FORM = r"(?:([1-9]\d{0,3})x_?)?([A-Za-z][A-Za-z0-9-]{0,31})"
_MEMORY_UNITS = {
    "k": 10**3,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_LARGEST_NUMBER_OF_BYTES = 2**60
_LARGEST_NUMBER_OF_GPUS = 9999


@dataclass(frozen=True, slots=True)
class Comparison:
    """A goal for a measured number, such as ``>0.7``."""

    spelling: str
    sign: str
    threshold: float

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read ``>0.7``, ``>=0.7``, ``<0.7`` or ``<=0.7``.

        Raises:
            ValueError: the value has another form.
        """
        if isinstance(value, cls):
            return value
        match = re.fullmatch(_COMPARISON_FORM, value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError("must be a comparison such as '>0.7' or '<=0.2'")
        return cls(match[1] + match[2], match[1], float(match[2]))

    def holds(self, measured: float) -> bool:
        """Return True if ``measured`` reaches the goal."""
        return bool(_OPERATORS[self.sign](measured, self.threshold))

    def __str__(self) -> str:
        return self.spelling


@dataclass(frozen=True, slots=True)
class MemorySize:
    """An amount of memory: how it was written, and how many bytes that is."""

    spelling: str
    num_bytes: int

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read Kubernetes' quantities (``32Gi``, ``512Mi``, ``1.5G``, also with a ``B``), or a number of bytes.

        Raises:
            ValueError: the value has another form, or is no amount anybody has.
        """
        if isinstance(value, cls):
            return value
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        form = "must be an amount of memory such as '32Gi' or '512Mi', or a number of bytes"
        if not isinstance(text, str):
            raise ValueError(form)
        text = text.strip()
        if match := re.fullmatch(_MEMORY_FORM, text):
            num_bytes = round(float(match[1]) * _MEMORY_UNITS[match[2]])
        elif re.fullmatch(r"\d{1,19}", text):
            num_bytes = int(text)
        else:
            raise ValueError(form)
        if not 0 < num_bytes <= _LARGEST_NUMBER_OF_BYTES:
            raise ValueError(form)
        return cls(text, num_bytes)

    def __str__(self) -> str:
        return self.spelling


@dataclass(frozen=True, slots=True)
class Gpu:
    """Number of GPUs, or a share of one, and the type if it matters."""

    spelling: str
    count: float
    type: str | None = None

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a number (``2``, ``0.5``), a type (``a100``) or both (``2x_a100``).

        Raises:
            ValueError: the value has another form, or is a share of several GPUs, which nothing can give.
        """
        if isinstance(value, cls):
            return value
        text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        form = "must be a number of GPUs such as 1, 0.5 or 2, or a number and a type such as '1x_a100'"
        if not isinstance(text, str):
            raise ValueError(form)
        text = text.strip()
        if re.fullmatch(_NUMBER, text):
            count = float(text)
            if count > _LARGEST_NUMBER_OF_GPUS or (count > 1 and not count.is_integer()):
                raise ValueError(form)
            return cls(text, count)
        if match := re.fullmatch(_GPU_FORM, text):
            return cls(text, float(match[1] or 1), match[2])
        raise ValueError(form)

    def __str__(self) -> str:
        return self.spelling


class FrozenMapping(dict[str, Any]):
    """A mapping that can't be changed after it was made, because the section around it can't either."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("a configuration can't be changed; make another one")

    __setitem__ = __delitem__ = _refuse
    clear = pop = popitem = setdefault = update = __ior__ = _refuse

    def __reduce__(self) -> tuple[type[FrozenMapping], tuple[Mapping[str, object]]]:
        return FrozenMapping, (dict(self),)


ComparisonField = Annotated[
    Comparison,
    PlainValidator(Comparison.parse),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": rf"^\s*{_COMPARISON_FORM}\s*$"}),
]
MemoryField = Annotated[
    MemorySize,
    PlainValidator(MemorySize.parse),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": rf"^\s*({_MEMORY_FORM}|\d{{1,19}})\s*$"},
                {"type": "integer", "minimum": 1, "maximum": _LARGEST_NUMBER_OF_BYTES},
            ]
        }
    ),
]
GpuField = Annotated[
    Gpu,
    PlainValidator(Gpu.parse),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": rf"^\s*({_GPU_FORM}|{_NUMBER})\s*$"},
                {"type": "number", "minimum": 0, "maximum": _LARGEST_NUMBER_OF_GPUS},
            ]
        }
    ),
]
