"""Formats of records: one record to and from the rows that are trained on."""

from llamafarm_ray.data.formats.chats import chat_row, check_record_keys, parse_record, question_text, with_earlier
from llamafarm_ray.data.formats.turns import RecordError, parse_turns, required_text
from llamafarm_ray.data.formats.writing import (
    FORMATS,
    RowFormat,
    default_format,
    format_record,
    format_row,
    formats_of,
    holds_one_answer,
)

__all__ = [
    "FORMATS",
    "RecordError",
    "RowFormat",
    "chat_row",
    "check_record_keys",
    "default_format",
    "format_record",
    "format_row",
    "formats_of",
    "holds_one_answer",
    "parse_record",
    "parse_turns",
    "question_text",
    "required_text",
    "with_earlier",
]
