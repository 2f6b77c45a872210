"""The formats of example files: alpaca, sharegpt and chatml, in ``.json`` (a list) and ``.jsonl`` (one a line).

::

    alpaca    {"instruction": "...", "input": "", "output": "..."}                        one turn
    sharegpt  {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", ...}]}
    chatml    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}   as OpenAI's API

Rows of other kinds are in `llamafarm_ray.data.training_rows`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from llamafarm_ray.data.rows import ROLES, Message
from llamafarm_ray.data.text import decode_text
from llamafarm_ray.errors import InputError

__all__ = [
    "FORMATS",
    "JSON_SUFFIXES",
    "RecordError",
    "RowFormat",
    "format_record",
    "parse_record",
    "parse_turns",
    "read_messages",
    "read_records",
    "required_text",
]

RowFormat = Literal["alpaca", "sharegpt", "chatml"]
FORMATS: tuple[RowFormat, ...] = ("alpaca", "sharegpt", "chatml")
JSON_SUFFIXES = (".json", ".jsonl")

_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_SHAREGPT_NAMES = {"user": "human", "assistant": "gpt", "system": "system"}
_EXPECTED = (
    "A record has 'messages' (chatml), 'conversations' (sharegpt), or 'instruction' and 'output' (alpaca; 'input' too)."
)


class RecordError(Exception):
    """What is wrong with one record; who reads the file knows which one it is."""


def format_record(messages: Sequence[Message], row_format: RowFormat) -> dict[str, Any]:
    """A conversation as a record of ``row_format``.

    Raises:
        InputError: alpaca is asked for and the conversation is more than one question and its answer.
    """
    if row_format == "chatml":
        return {"messages": [{"role": m.role, "content": m.content} for m in messages]}
    if row_format == "sharegpt":
        return {"conversations": [{"from": _SHAREGPT_NAMES[m.role], "value": m.content} for m in messages]}
    system = {"system": messages[0].content} if messages and messages[0].role == "system" else {}
    turns = messages[len(system) :]
    if [m.role for m in turns] != ["user", "assistant"]:
        raise InputError(
            f"A conversation of {len(turns)} turns does not fit the format alpaca.", hint="Use chatml or sharegpt."
        )
    return {**system, "instruction": turns[0].content, "input": "", "output": turns[1].content}


def read_messages(path: Path) -> list[tuple[Message, ...]]:
    """The conversations of a ``.json`` or ``.jsonl`` file; each record tells its format by its keys.

    Raises:
        InputError: the file can't be read, is empty, or has a bad record; the message names the first one.
    """
    conversations = []
    for place, record in read_records(path):
        try:
            conversations.append(parse_record(record))
        except RecordError as error:
            raise InputError(f"{path}: {place} {error}", hint=_EXPECTED) from None
    if not conversations:
        raise InputError(f"{path} has no records.", hint=_EXPECTED)
    return conversations


def read_records(path: Path) -> Iterator[tuple[str, object]]:
    """Each record of a ``.json`` or ``.jsonl`` file, with the words that say where it stands.

    Raises:
        InputError: the file can't be read, or is no such file.
    """
    try:
        text = decode_text(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}.") from error
    if text is None:
        raise InputError(f"{path} is not text in UTF-8.")
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"line {number}", _json(line, f"{path}, line {number},")
        return
    if not text.strip():
        raise InputError(f"{path} is empty.", hint=_EXPECTED)
    records = _json(text, str(path))
    if not isinstance(records, list):
        raise InputError(
            f"{path} holds {_kind(records)}, not a list of records.", hint="For one record a line, name it .jsonl."
        )
    for index, record in enumerate(records):
        yield f"record {index}", record


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: {error}.") from error


def parse_record(record: object) -> tuple[Message, ...]:
    """The conversation of one record of any format.

    Raises:
        RecordError: it has no such format, or is missing something.
    """
    if not isinstance(record, dict):
        raise RecordError(f"is {_kind(record)}, not an object.")
    if "messages" in record or "conversations" in record:
        messages = parse_turns(record)
    elif "instruction" in record or "output" in record:
        instruction, extra = _text(record, "instruction"), _text(record, "input", optional=True)
        question = f"{instruction}\n\n{extra}" if extra else instruction
        messages = [Message("user", question), Message("assistant", _text(record, "output"))]
    else:
        keys = ", ".join(map(repr, record)) or "none"
        raise RecordError(f"has no known format; its keys are: {keys}.")
    if "system" in record and "messages" not in record and _text(record, "system", optional=True):
        messages.insert(0, Message("system", _text(record, "system")))
    if not any(message.role == "assistant" for message in messages):
        raise RecordError("has no assistant turn to learn from.")
    return tuple(messages)


def parse_turns(record: Mapping[str, Any], *, shown_as: str = "") -> list[Message]:
    """The turns under ``messages`` (role and content) or ``conversations`` (from and value).

    Args:
        record: has one of the two.
        shown_as: what the key is called in messages, where it isn't that.

    Raises:
        RecordError: they are no list of turns.
    """
    if "messages" in record:
        return _turns(record["messages"], shown_as or "messages", "role", "content", {role: role for role in ROLES})
    return _turns(record["conversations"], shown_as or "conversations", "from", "value", _SHAREGPT_ROLES)


def required_text(record: Mapping[str, Any], key: str) -> str:
    """The text under ``key``.

    Raises:
        RecordError: it is missing, empty or no text.
    """
    return _text(record, key)


def _turns(turns: object, key: str, role_key: str, text_key: str, roles: dict[str, str]) -> list[Message]:
    if not isinstance(turns, list) or not turns:
        raise RecordError(f"has {_kind(turns)} as '{key}', not a list of turns.")
    messages = []
    for index, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise RecordError(f"has {_kind(turn)} as {key}[{index}], not an object.")
        role = turn.get(role_key)
        if not isinstance(role, str) or role not in roles:
            raise RecordError(f"has {role!r} as {key}[{index}].{role_key}, not one of {', '.join(roles)}.")
        messages.append(Message(roles[role], _text(turn, text_key, f"{key}[{index}].")))  # type: ignore[arg-type]
    return messages


def _text(record: Mapping[str, Any], key: str, prefix: str = "", *, optional: bool = False) -> str:
    value = record.get(key)
    if optional and (value is None or value == ""):
        return ""
    if value is None:
        raise RecordError(f"is missing '{prefix}{key}'.")
    if not isinstance(value, str):
        raise RecordError(f"has {_kind(value)} as '{prefix}{key}', not text.")
    if not value.strip():
        raise RecordError(f"has an empty '{prefix}{key}'.")
    return value


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    if value == []:
        return "an empty list"
    return "null" if value is None else kinds.get(type(value), type(value).__name__)
