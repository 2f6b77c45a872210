"""The formats of example files: alpaca, sharegpt and chatml, in ``.json`` (a list) and ``.jsonl`` (one a line).

::

    alpaca    {"instruction": "...", "input": "", "output": "..."}                        one turn
    sharegpt  {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", ...}]}
    chatml    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}   as OpenAI's API

Beside any of them, ``system`` is a system prompt, and ``history`` (LLaMA-Factory) lists earlier turns as pairs of a
question and its answer. An assistant turn with ``weight: 0`` (OpenAI), ``train: false`` or ``training: false``
(Axolotl), or ``loss: false`` (ms-swift) is context only. Keys with a meaning that is not available are refused, see
`UNAVAILABLE`; other keys are notes of the file's author.

Rows of other kinds are in `llamafarm_ray.data.training_rows`.
"""

from __future__ import annotations

import json
import types
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
    "check_record_keys",
    "format_record",
    "parse_record",
    "parse_turns",
    "question_text",
    "read_messages",
    "read_records",
    "required_text",
    "with_earlier",
]

RowFormat = Literal["alpaca", "sharegpt", "chatml"]
FORMATS: tuple[RowFormat, ...] = ("alpaca", "sharegpt", "chatml")
JSON_SUFFIXES = (".json", ".jsonl")

_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_SHAREGPT_NAMES = {"user": "human", "assistant": "gpt", "system": "system"}
UNAVAILABLE: Mapping[str, str] = types.MappingProxyType(
    {
        **dict.fromkeys(
            ("tools", "functions", "tool_choice", "parallel_tool_calls", "tool_calls", "tool_call_id", "function_call"),
            "tool calls are not trained yet; write them into the text as the model's template does, or remove them",
        ),
        **dict.fromkeys(
            ("reasoning_content", "reasoning", "thinking"),
            "put the reasoning into the text, between the marks that the model's template uses (<think>...</think>)",
        ),
        **dict.fromkeys(
            ("images", "image", "videos", "video", "audios", "audio"), "only text is trained; remove rows with media"
        ),
        "chat_template_kwargs": "the chat template gets the messages only",
    }
)
"""Keys of a record or a turn that other tools use, and what to do here instead."""

_UNAVAILABLE_IN_TURNS = {
    **UNAVAILABLE,
    "name": "templates write roles, not names; put the name into the text",
    "refusal": "put the refusal's text into 'content'",
}

_WEIGHTS = {"weight": (0, 1), "train": (False, True), "training": (False, True), "loss": (False, True)}
"""Keys that say if a turn is trained, with their values for no and yes."""

_EXPECTED = (
    "A record has 'messages' (chatml), 'conversations' (sharegpt), or 'instruction' and 'output' (alpaca; 'input' too)."
)


class RecordError(Exception):
    """What is wrong with one record; who reads the file knows which one it is."""


def format_record(messages: Sequence[Message], row_format: RowFormat) -> dict[str, Any]:
    """Return a conversation as a record of ``row_format``.

    Raises:
        InputError: alpaca is asked for and the conversation is more than one question and its answer.
    """
    if row_format == "chatml":
        return {"messages": [{"role": m.role, "content": m.content, **_mark(m, weight=0)} for m in messages]}
    if row_format == "sharegpt":
        turns = [{"from": _SHAREGPT_NAMES[m.role], "value": m.content, **_mark(m, train=False)} for m in messages]
        return {"conversations": turns}
    system = {"system": messages[0].content} if messages and messages[0].role == "system" else {}
    rest = messages[len(system) :]
    if [m.role for m in rest] != ["user", "assistant"]:
        raise InputError(
            f"A conversation of {len(rest)} turns does not fit the format alpaca.", hint="Use chatml or sharegpt."
        )
    return {**system, "instruction": rest[0].content, "input": "", "output": rest[1].content}


def _mark(message: Message, **mark: Any) -> dict[str, Any]:
    return {} if message.train is None else mark


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
    """Return the conversation of one record of any format.

    Raises:
        RecordError: it has no such format, is missing something, or has a key that can't be used.
    """
    if not isinstance(record, dict):
        raise RecordError(f"is {_kind(record)}, not an object.")
    check_record_keys(record)
    if "messages" in record or "conversations" in record:
        messages = parse_turns(record)
    elif "instruction" in record or "output" in record:
        messages = [Message("user", question_text(record)), Message("assistant", _text(record, "output"))]
    else:
        keys = ", ".join(map(repr, record)) or "none"
        raise RecordError(f"has no known format; its keys are: {keys}.")
    messages = with_earlier(record, messages)
    if not any(message.role == "assistant" for message in messages):
        raise RecordError("has no assistant turn to learn from.")
    return tuple(messages)


def check_record_keys(record: Mapping[str, Any]) -> None:
    """Check that a record has one conversation, and no key with a meaning that is not available.

    Raises:
        RecordError: it has.
    """
    _refuse_unavailable(record, "", UNAVAILABLE)
    if record.get("weight") not in (None, 1):
        raise RecordError(f"has {record['weight']!r} as 'weight'; all rows count alike. Mark turns, or remove the row.")
    given = [key for key in ("messages", "conversations", "instruction") if not _is_empty(record.get(key))]
    if len(given) > 1:
        raise RecordError(f"has both '{given[0]}' and '{given[1]}'; keep one.")


def question_text(record: Mapping[str, Any]) -> str:
    """Return the question of an alpaca record: its instruction, and its input below.

    Raises:
        RecordError: there is none.
    """
    instruction, extra = _text(record, "instruction"), _text(record, "input", optional=True)
    return f"{instruction}\n\n{extra}" if extra else instruction


def with_earlier(record: Mapping[str, Any], messages: list[Message]) -> list[Message]:
    """Return a record's turns after those that its ``history`` lists, and after its ``system`` prompt.

    Raises:
        RecordError: ``history`` is no list of pairs, or there are two system prompts.
    """
    system, rest = _text(record, "system", optional=True), messages
    own = messages[0].content if messages and messages[0].role == "system" else ""
    if system and own and system != own:
        raise RecordError("has one system prompt as 'system' and another one among its turns; keep one.")
    if own:
        rest = messages[1:]
    first = [Message("system", system or own)] if system or own else []
    return [*first, *_history(record.get("history")), *rest]


def _history(value: object) -> list[Message]:
    if _is_empty(value):
        return []
    if not isinstance(value, list):
        raise RecordError(f"has {_kind(value)} as 'history', not a list of pairs.")
    messages = []
    for index, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) != 2:  # noqa: PLR2004 - a question and its answer
            raise RecordError(f"has {_kind(pair)} as history[{index}], not a question and its answer.")
        texts = {f"history[{index}][{place}]": text for place, text in enumerate(pair)}
        question, answer = (_text(texts, key) for key in texts)
        messages += [Message("user", question), Message("assistant", answer)]
    return messages


def _refuse_unavailable(found: Mapping[str, Any], prefix: str, unavailable: Mapping[str, str]) -> None:
    for key, instead in unavailable.items():
        if not _is_empty(found.get(key)):
            raise RecordError(f"has '{prefix}{key}', which can't be used: {instead}.")


def _is_empty(value: object) -> bool:
    """Return True for what says nothing: datasets in columns fill keys up with such values."""
    return value is None or value is False or value in ("", "[]", [], {})


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
        where = f"{key}[{index}]."
        _refuse_unavailable(turn, where, _UNAVAILABLE_IN_TURNS)
        train = _train_mark(turn, where, is_answer=roles[role] == "assistant")
        messages.append(Message(roles[role], _text(turn, text_key, where), train))  # type: ignore[arg-type]
    return messages


def _train_mark(turn: Mapping[str, Any], where: str, *, is_answer: bool) -> Literal[False] | None:
    """Return False for an assistant turn that is marked as context only.

    Raises:
        RecordError: a mark is none of its two values, says that another turn is trained, or two marks differ.
    """
    marks: dict[str, bool] = {}
    for key, (no, yes) in _WEIGHTS.items():
        value = turn.get(key)
        if value is None:
            continue
        # JSON's 1.0 is 1; but true is no weight.
        if value not in (no, yes) or isinstance(value, bool) != isinstance(no, bool):
            raise RecordError(f"has {value!r} as '{where}{key}', not {json.dumps(no)} or {json.dumps(yes)}.")
        marks[key] = value == yes
    if len(set(marks.values())) > 1:
        raise RecordError(f"has marks at {where[:-1]} that differ: {', '.join(marks)}; keep one.")
    trained = not marks or any(marks.values())
    if marks and trained and not is_answer:
        raise RecordError(f"has '{where}{next(iter(marks))}' on a turn that is no assistant's; only those are trained.")
    return None if trained or not is_answer else False


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
