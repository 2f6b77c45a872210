"""Rows as records of a format, for files that other tools read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from llamafarm_ray.config.sections.dataset import RowFormat
from llamafarm_ray.data.formats.images import parts_of
from llamafarm_ray.data.rows import Message
from llamafarm_ray.errors import InputError

__all__ = [
    "FORMATS",
    "RowFormat",
    "default_format",
    "format_record",
    "format_row",
    "formats_of",
    "holds_one_answer",
]

FORMATS: tuple[RowFormat, ...] = get_args(RowFormat)

_SHAREGPT_NAMES = {"user": "human", "assistant": "gpt", "system": "system", "tool": "tool"}
_FORMATS_OF: Mapping[str, tuple[str, ...]] = {
    "chat": ("chatml", "sharegpt", "alpaca", "prompt_completion"),
    "preference": ("preference", "kto"),
    "judgement": ("kto",),
    "text": ("text",),
    "match": ("match",),
}
"""The formats that each kind of rows can be written in, its own one first."""
_ONE_ANSWER = frozenset({"alpaca", "prompt_completion"})


def formats_of(kind: str) -> tuple[str, ...]:
    """Return the formats that rows of a kind can be written in."""
    return _FORMATS_OF[kind]


def holds_one_answer(row_format: str | None) -> bool:
    """Return True for a format whose records teach one answer each, however many turns come before it."""
    return row_format in _ONE_ANSWER


def default_format(kind: str) -> str:
    """Return the format that keeps everything of a kind's rows."""
    return _FORMATS_OF[kind][0]


def format_row(row: Mapping[str, Any], kind: str, row_format: str) -> Iterator[dict[str, object]]:
    """Yield a row as records of a format: one, but two for a preference in ``kto``.

    Raises:
        InputError: rows of this kind, or this row, can't be written so.
    """
    if row_format not in _FORMATS_OF[kind]:
        raise InputError(
            f"Rows of the kind {kind} can't be written as {row_format}.", hint=f"Use {' or '.join(_FORMATS_OF[kind])}."
        )
    messages = [Message.of(turn) for turn in row.get("messages") or ()]
    if kind == "chat":
        yield format_record(messages, row_format, tools=row.get("tools"))
    elif kind == "preference" and row_format == "preference":
        yield {"messages": _turns(messages), "chosen": row["chosen"], "rejected": row["rejected"]}
    elif kind == "preference":
        for answer, label in (("chosen", True), ("rejected", False)):
            yield {"messages": [*_turns(messages), {"role": "assistant", "content": row[answer]}], "label": label}
    elif kind == "judgement":
        yield {"messages": _turns(messages), "label": row["label"]}
    elif kind == "match":
        yield {"anchor": row["anchor"], "positive": row["positive"], "negatives": list(row["negatives"] or ())}
    else:
        yield {"text": row["text"]}


def format_record(messages: Sequence[Message], row_format: str, *, tools: str | None = None) -> dict[str, object]:
    """Return a conversation as a record of ``row_format``.

    Args:
        row_format: chatml, sharegpt, alpaca or prompt_completion.
        tools: the tools that the assistant had, as JSON.

    Raises:
        InputError: alpaca is asked for and the conversation is more than one question and its answer.
    """
    beside = {"tools": json.loads(tools)} if tools else {}
    images = [image for message in messages for image in message.images]
    named = {"images": images} if images else {}
    system = [message for message in messages[:1] if message.role == "system"]
    rest = messages[len(system) :]
    plain = [m.role for m in rest] == ["user", "assistant"] and not tools and not any(_extras(m) for m in rest)
    if row_format == "chatml":
        return {"messages": _turns(messages), **beside}
    if row_format == "sharegpt":
        turns = [{"from": _SHAREGPT_NAMES[m.role], "value": m.content, **_extras(m, train=False)} for m in messages]
        return {"conversations": turns, **beside, **named}
    if row_format == "prompt_completion":
        if plain and not system:
            return {"prompt": rest[0].content, "completion": rest[1].content, **named}
        last = max((index for index, m in enumerate(messages) if m.role == "assistant"), default=0)
        if not last:
            raise InputError("A conversation without a prompt can't be written as prompt_completion.")
        return {"prompt": _turns(messages[:last]), "completion": _turns(messages[last:]), **beside}
    if row_format != "alpaca":
        raise InputError(f"A conversation can't be written as {row_format}.", hint="Use chatml.")
    if not plain:
        what = f"of {len(rest)} turns" if len(rest) != 2 else "with tools or marks"  # a pair
        raise InputError(f"A conversation {what} does not fit the format alpaca.", hint="Use chatml or sharegpt.")
    first = {"system": system[0].content} if system else {}
    return {**first, "instruction": rest[0].content, "input": "", "output": rest[1].content, **named}


def _turns(messages: Sequence[Message]) -> list[dict[str, object]]:
    return [_turn(message) for message in messages]


def _turn(message: Message) -> dict[str, object]:
    parts = parts_of(message)
    beside = {"images": list(message.images)} if message.images and parts is None else {}
    return {"role": message.role, "content": parts or message.content, **_extras(message, weight=0), **beside}


def _extras(message: Message, **mark: object) -> dict[str, object]:
    """Return the keys of a turn beside its role and text."""
    calls = {"tool_calls": json.loads(message.tool_calls)} if message.tool_calls else {}
    named = {"name": message.name, "tool_call_id": message.tool_call_id}
    return {
        **({} if message.train is None else mark or {"train": False}),
        **calls,
        **{key: value for key, value in named.items() if value},
    }
