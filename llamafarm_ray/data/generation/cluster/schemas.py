"""JSON schemas with limits, so that answers end, and the whole elements of answers that were cut."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llamafarm_ray.data.generation.endpoint.answers import without_controls

__all__ = ["limited_schema", "whole_items"]

_MOST_TEXTS = 8
_LONGEST_TEXT = 600
_LIST = re.compile(r'\s*\{\s*"(?P<key>\w+)"\s*:\s*\[\s*')
_COMMA = re.compile(r"\s*,?\s*")


def limited_schema(body: Mapping[str, Any], num_items: int) -> dict[str, object]:
    """Return the schema of the answer to a request, with limits for lists and texts.

    A model under a grammar without them may go on with a list or a text to its limit of tokens, and such an answer
    can't be read.

    Args:
        num_items: number of examples that it asks for.
    """
    schema: Mapping[str, Any] = body["response_format"]["json_schema"]["schema"]
    return _limited(schema, num_items)


def _limited(schema: Mapping[str, Any], most: int) -> dict[str, object]:
    limited = dict(schema)
    match schema.get("type"):
        case "string" if "enum" not in schema:
            limited["maxLength"] = _LONGEST_TEXT
        case "array":
            limited |= {"maxItems": most, "items": _limited(schema["items"], _MOST_TEXTS)}
        case "object" if "properties" in schema:
            limited["properties"] = {name: _limited(one, most) for name, one in schema["properties"].items()}
    return limited


def whole_items(text: str) -> str:
    """Return an answer that was cut at the limit of tokens with those elements of its list that are whole.

    It stays as it is where it has no list or none of its elements is whole.
    """
    begun = _LIST.match(text)
    items: list[object] = []
    at = begun.end() if begun else len(text)
    decoder = json.JSONDecoder()
    spaced = without_controls(text)
    while at < len(text):
        try:
            item, at = decoder.raw_decode(spaced, at)
        except ValueError:
            break
        items.append(item)
        separator = _COMMA.match(text, at)
        at = separator.end() if separator else len(text)
    return json.dumps({begun["key"]: items}, ensure_ascii=False) if begun and items else text
