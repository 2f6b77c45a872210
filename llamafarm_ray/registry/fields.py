"""Types of events' fields: names, versions, digests, texts and JSON that a log can hold."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from llamafarm_ray.errors import InputError
from llamafarm_ray.types import MODEL_NAME, NAME, Version

__all__ = ["MAX_TEXT", "DigestText", "JsonObject", "ModelName", "Name", "SemVer", "TagText"]

Name = Annotated[str, Field(pattern=rf"^{NAME}$")]
ModelName = Annotated[str, Field(pattern=rf"^{MODEL_NAME}$")]
_MAX_DEPTH = 16
_MAX_ITEMS = 10_000
_MAX_INTEGER = 2**63 - 1
MAX_TEXT = 65536


def _check_version(text: str) -> str:
    """Refuse what reads as another number than it is written, such as ``01.2.3``."""
    try:
        Version.parse(text)
    except InputError as error:
        raise ValueError(error.message) from None
    return text


def _check_json(value: dict[str, object]) -> dict[str, object]:
    """Refuse values that JSON can't hold: not-a-number, infinities, objects, endless nesting."""
    waiting: list[tuple[object, int]] = [(value, 0)]
    num_items = 0
    while waiting:
        item, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(f"is nested deeper than {_MAX_DEPTH}")
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"holds {item}, which is no number")
        if isinstance(item, int) and abs(item) > _MAX_INTEGER:
            raise ValueError("holds an integer of more than 64 bits")
        num_items += 1
        if num_items > _MAX_ITEMS:
            raise ValueError(f"holds more than {_MAX_ITEMS:,} values")
        if isinstance(item, dict):
            waiting += [(inner, depth + 1) for inner in item.values()]
        elif isinstance(item, (list, tuple)):
            waiting += [(inner, depth + 1) for inner in item]
    return value


JsonObject = Annotated[dict[str, JsonValue], BeforeValidator(_check_json)]
SemVer = Annotated[str, AfterValidator(_check_version)]
TagText = Annotated[
    str, Field(pattern=r"^[^\s\x00-\x1f\x7f-\x9f](?:[^\x00-\x1f\x7f-\x9f]{0,126}[^\s\x00-\x1f\x7f-\x9f])?$")
]
DigestText = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
