"""Examples of a build as rows of a kind: chats, texts, preferences, judgements, matches.

While a dataset is built every example has messages, so that all filters see its texts. The other values of its kind
are JSON in the column ``extra``::

    chat         messages                                   extra: the row's turns with tool calls and marks, its tools
    text         the text as a user turn
    preference   the prompt, and the chosen answer          extra: {"rejected": "..."}, and turns with images
    judgement    the conversation with its judged answer    extra: {"label": true}, and turns with images
    match        the anchor, and the positive as an answer  extra: {"negatives": ["..."]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.rows import ROW_SCHEMA, Message, chat_id, with_optional
from llamafarm_ray.data.training_rows import KINDS, KindName, judgement_row, match_row, preference_row, text_row

__all__ = ["KIND_OF_PAIRS", "kind_of_build", "messages_of_row", "row_of_kind", "schema_of_build"]

KIND_OF_PAIRS: Mapping[str, KindName] = {"retrieval": "match", "preferences": "preference"}
"""Kinds of rows by the kind of pairs that they are made from; all others make chats."""

_OF_BUILD = ("document", "document_digest", "passage", "provenance", "pii")


def kind_of_build(config: DatasetConfig) -> KindName:
    """Return the kind of rows that are made from documents."""
    generation = config.preprocessing.qa_generation
    return KIND_OF_PAIRS.get(generation.kinds[0], "chat") if generation.enabled else "text"


def schema_of_build(config: DatasetConfig) -> pa.Schema:
    """Return the columns of rows that are made from documents; those with calls have tools."""
    schema = KINDS[kind_of_build(config)].schema
    generation = config.preprocessing.qa_generation
    if not generation.enabled or "tool_calls" not in generation.kinds:
        return schema
    return with_optional(schema, [{"tools": "[]", "messages": [{"role": "", "content": "", "tool_calls": "[]"}]}])


def row_of_kind(row: Mapping[str, Any], kind: str) -> dict[str, object]:
    """Return a row of ``EXAMPLE_SCHEMA`` with the columns of its kind, and those that say where it came from."""
    extra: dict[str, Any] = json.loads(row["extra"]) if row.get("extra") else {}
    if kind == "chat":
        return {**{name: row[name] for name in ROW_SCHEMA.names}, **extra}
    messages = [Message.of(turn) for turn in row["messages"]]
    turns = [Message.of(turn) for turn in extra.get("turns", ())]
    match kind:
        case "text":
            made = text_row(messages[-1].content)
        case "preference":
            made = preference_row(turns or messages[:-1], messages[-1].content, extra["rejected"])
        case "judgement":
            made = judgement_row(turns or messages, label=extra["label"])
        case _:
            made = match_row(messages[0].content, messages[-1].content, extra.get("negatives", ()))
    return {**made, **{name: row.get(name) for name in _OF_BUILD}}


def messages_of_row(row: Mapping[str, Any], kind: str) -> tuple[tuple[Message, ...], str]:
    """Return the messages and the ``extra`` of a row of a kind: the way back from `row_of_kind`."""
    turns: Sequence[Mapping[str, Any]] = row.get("messages") or ()
    messages = tuple(Message(turn["role"], turn["content"]) for turn in turns)
    match kind:
        case "chat":
            whole = {"messages": list(turns), **({"tools": row["tools"]} if row.get("tools") else {})}
            whole["id"] = chat_id([Message.of(turn) for turn in turns], row.get("tools"))
            marked = "tools" in whole or any(turn.keys() - {"role", "content"} for turn in turns)
            return messages, json.dumps(whole) if marked else ""
        case "text":
            return (Message("user", row["text"]),), ""
        case "preference":
            extra = {"rejected": row["rejected"], **_marked(turns)}
            return (*messages, Message("assistant", row["chosen"])), json.dumps(extra)
        case "judgement":
            return messages, json.dumps({"label": row["label"], **_marked(turns)})
        case _:
            pair = (Message("user", row["anchor"]), Message("assistant", row["positive"]))
            return pair, json.dumps({"negatives": list(row["negatives"])})


def _marked(turns: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return the turns for ``extra`` if they have more than role and content, such as images."""
    return {"turns": list(turns)} if any(turn.keys() - {"role", "content"} for turn in turns) else {}
