"""JSON and JSON Lines."""

from __future__ import annotations

import json

from llamafarm_ray.data.readers.base import MAX_TEXT_BYTES, BrokenDocumentError, Outline, Reader
from llamafarm_ray.data.readers.records.record import add_record
from llamafarm_ray.data.readers.text import require_text

__all__ = ["JsonLinesReader", "JsonReader"]

_LISTS = ("data", "records", "items", "documents", "results")


class JsonReader(Reader):
    """``.json`` files: a list is one record an element, anything else one record."""

    name = "JSON"
    max_bytes = MAX_TEXT_BYTES

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`."""
        try:
            value = json.loads(require_text(data, outline))
        except json.JSONDecodeError as error:
            raise BrokenDocumentError(f"it is not valid JSON ({error}).") from error
        except RecursionError as error:
            raise BrokenDocumentError("its JSON is nested too deeply.") from error
        for record in _records(value):
            add_record(record, outline)
        return ""


class JsonLinesReader(Reader):
    """``.jsonl`` and ``.ndjson`` files: one record a line."""

    name = "JSON Lines"
    max_bytes = MAX_TEXT_BYTES

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; a line that is no JSON is left out and noted.

        Raises:
            BrokenDocumentError: no line is JSON.
        """
        bad: list[int] = []
        num_records = 0
        for number, line in enumerate(require_text(data, outline).split("\n"), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                bad.append(number)
                continue
            num_records += 1
            add_record(record, outline)
        if bad and not num_records:
            raise BrokenDocumentError("none of its lines is JSON.")
        if bad:
            outline.note(f"{len(bad)} lines that are no JSON left out, the first is line {bad[0]}")
        return ""


def _records(value: object) -> list[object]:
    """Return the records of a file: its list, or what stands around the list in it with a usual name, and that list."""
    if isinstance(value, dict):
        key = next((key for key in _LISTS if isinstance(value.get(key), list)), None)
        if key is not None:
            around = {name: inner for name, inner in value.items() if name != key}
            return [*([around] if around else []), *value[key]]
    return value if isinstance(value, list) else [value]
