"""Kinds of rows: conversations, preferences, judged answers, matching texts, plain text.

A dataset holds rows of one kind, told by the keys of its records; the forms of other tools are read too. Conversations
are described in `llamafarm_ray.data.formats.chats`.

::

    preference   {"messages": [...], "chosen": "...", "rejected": "..."}       fine_tuning.objective dpo
                 {"prompt": ..., "chosen": ..., "rejected": ...}               TRL; each a text or a list of messages
                 {"chosen": [...], "rejected": [...]}                          TRL, the prompt in both
                 {"conversations": [...], "chosen": {...}, "rejected": {...}}  LLaMA-Factory, sharegpt
                 {"instruction": ..., "input": ..., "chosen": ..., "rejected": ...}         LLaMA-Factory, alpaca
    chat         {"messages": [...]}                                           sft
    judgement    {"messages": [..., {"role": "assistant", ...}], "label": true}             kto
                 {"prompt": ..., "completion": ..., "label": true}             TRL
                 {"conversations" or "messages": [...], "kto_tag": true}       LLaMA-Factory
                 {"instruction": ..., "input": ..., "output": ..., "kto_tag": true}         LLaMA-Factory, alpaca
    match        {"anchor": "...", "positive": "...", "negatives": ["..."]}                 contrastive
                 {"anchor": ..., "positive": ..., "negative": "..."}           sentence-transformers
                 {"query": "...", "pos": ["..."], "neg": ["..."]}              FlagEmbedding; a row for each of ``pos``
    text         {"text": "..."}                                                            pretraining
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from llamafarm_ray.data.formats.chats import (
    chat_row,
    check_record_keys,
    check_repeats,
    parse_record,
    question_and_answer,
    question_text,
    with_earlier,
)
from llamafarm_ray.data.formats.turns import RecordError, parse_turns, required_text
from llamafarm_ray.data.formats.values import NUMBERED_NEGATIVE, check_agree, is_empty, kind_name, parsed_list, turns_in
from llamafarm_ray.data.rows import ROW_SCHEMA, Message
from llamafarm_ray.data.text import text_digest

__all__ = [
    "KINDS",
    "KindName",
    "RowKind",
    "described",
    "judgement_row",
    "kind_of",
    "match_row",
    "parse_row",
    "preference_row",
    "text_row",
]

KindName = Literal["chat", "preference", "judgement", "match", "text"]
Row = dict[str, Any]

_ORIGIN = ("document", "document_digest", "passage", "provenance", "pii")
_SOURCE = tuple(ROW_SCHEMA.field(name) for name in _ORIGIN)
_ID, _MESSAGES = ROW_SCHEMA.field("id"), ROW_SCHEMA.field("messages")


@dataclass(frozen=True, slots=True)
class RowKind:
    """A kind of rows.

    Args:
        read: the rows that a record of a file holds, without their source; raises RecordError where it is bad.
    """

    name: KindName
    schema: pa.Schema
    read: Callable[[Mapping[str, Any]], Iterator[Row]]


def preference_row(messages: Sequence[Message], chosen: str, rejected: str) -> Row:
    """A question with a better and a worse answer; without the columns that say where it came from."""
    return {
        "id": text_digest(("preference", *_parts(messages), chosen, rejected)),
        "messages": [message.to_turn() for message in messages],
        "chosen": chosen,
        "rejected": rejected,
    }


def judgement_row(messages: Sequence[Message], *, label: bool) -> Row:
    """A conversation whose last answer was liked, or was not."""
    return {
        "id": text_digest(("judgement", *_parts(messages), str(label))),
        "messages": [message.to_turn() for message in messages],
        "label": label,
    }


def match_row(anchor: str, positive: str, negatives: Sequence[str] = ()) -> Row:
    """A text, one that belongs to it, and some that look as if they did."""
    return {
        "id": text_digest(("match", anchor, positive, *negatives)),
        "anchor": anchor,
        "positive": positive,
        "negatives": list(negatives),
    }


def text_row(text: str) -> Row:
    """A plain text."""
    return {"id": text_digest(("text", text)), "text": text}


def parse_row(record: object, kind: RowKind | None = None) -> tuple[RowKind, list[Row]]:
    """Return the rows of one record, and their kind.

    Args:
        kind: of the records before it; None for the first one.

    Raises:
        RecordError: it is bad, or of another kind.
    """
    found = kind_of(record)
    check_record_keys(record)
    assert isinstance(record, Mapping)  # checked a line above
    if kind is not None and kind.name != found.name:
        if found.name == "chat":  # the error that tells why it is none of the kind
            raise RecordError(f"is no {kind.name} row as the first one is; it lacks {_lacking(record, kind)}.")
        raise RecordError(f"is a {found.name} row, and the first one is a {kind.name} row; a dataset has one kind.")
    if found.name not in {"chat", "text"} and not is_empty(record.get("tools")):
        raise RecordError(f"has 'tools', which can't be used: {found.name} rows are trained without tools.")
    return found, list(found.read(record))


def described(kind: RowKind) -> str:
    """Return the names of the columns that a kind's rows are made of."""
    added = {"id", *_ORIGIN}
    own = [name for name in kind.schema.names if name not in added]
    return ", ".join(map(repr, own))


def kind_of(record: object) -> RowKind:
    """Return the kind that a record's keys tell; that of conversations for unknown records."""
    if not isinstance(record, Mapping):
        return KINDS["chat"]
    keys = {key for key, value in record.items() if value is not None}
    if {"chosen", "rejected"} <= keys:
        return KINDS["preference"]
    if _is_judged(record, keys):
        return KINDS["judgement"]
    if {"anchor", "positive"} <= keys or {"query", "pos"} <= keys:
        return KINDS["match"]
    if "text" in keys and not keys & {"messages", "conversations", "instruction", "prompt", "question"}:
        return KINDS["text"]
    return KINDS["chat"]


def _is_judged(record: Mapping[str, object], keys: set[str]) -> bool:
    if keys & {"label", "kto_tag"} and keys & {"messages", "conversations", "prompt"}:
        return True
    # Beside a question and its answer, a label that is no truth value may be a note of any kind.
    if "kto_tag" not in keys and not isinstance(record.get("label"), bool):
        return False
    try:
        return question_and_answer(record) is not None
    except RecordError:  # two of them, which the reader of chats tells
        return False


def _lacking(record: Mapping[str, object], kind: RowKind) -> str:
    """Return the names of the keys that a record lacks for a kind."""
    needed = {
        "preference": ("chosen", "rejected"),
        "judgement": ("label",),
        "match": ("query", "pos") if {"query", "pos"} & record.keys() else ("anchor", "positive"),
        "text": ("text",),
    }
    lacking = [key for key in needed.get(kind.name, ()) if record.get(key) is None]
    return ", ".join(map(repr, lacking)) or "a conversation"


def _parts(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        yield from message.parts


def _read_chat(record: Mapping[str, object]) -> Iterator[Row]:
    yield chat_row(record)


def _read_preference(record: Mapping[str, object]) -> Iterator[Row]:
    chosen, rejected = (_answer(record, key) for key in ("chosen", "rejected"))
    # Answers that are whole chats hold the prompt; "messages" beside them repeats one of the two.
    prompt = _prompt(record) if min(len(chosen), len(rejected)) == 1 else []
    if not prompt:
        # The prompt is what both begin with.
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    elif len(chosen) > len(prompt) and chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    for key in ("prompt", "instruction"):
        check_repeats([*prompt, *chosen, *rejected], record, key)
    prompt = with_earlier(record, prompt)
    if not prompt:
        raise RecordError("has no prompt: neither 'messages' nor 'prompt', and its answers share no beginning.")
    if prompt[-1].role == "assistant":
        raise RecordError(
            "has a prompt that ends with an assistant turn; the answers stand in 'chosen' and 'rejected'."
        )
    for key, answer in (("chosen", chosen), ("rejected", rejected)):
        if [message.role for message in answer] != ["assistant"]:
            roles = ", ".join(message.role for message in answer) or "no turns"
            raise RecordError(f"has {roles} after the prompt as '{key}', not one assistant turn.")
        _check_trained(answer[0])
    yield preference_row(prompt, chosen[0].content, rejected[0].content)


def _read_judgement(record: Mapping[str, object]) -> Iterator[Row]:
    key = "label" if record.get("label") is not None else "kto_tag"
    label = record[key]
    if label != record.get("kto_tag", label) is not None:
        raise RecordError("has 'label' and 'kto_tag', which differ; keep one.")
    if not isinstance(label, bool):
        raise RecordError(f"has {label!r} as '{key}', not true or false.")
    messages = _judged_turns(record)
    if not messages or messages[-1].role != "assistant":
        raise RecordError("does not end with the assistant turn that was judged.")
    _check_trained(messages[-1])
    yield judgement_row(messages, label=label)


def _judged_turns(record: Mapping[str, object]) -> list[Message]:
    messages = _prompt(record)
    if not messages or (len(messages) == 1 and is_empty(record.get("completion")) and is_empty(record.get("output"))):
        pair = question_and_answer(record)
        if pair is not None:
            return list(parse_record(record))
    check_agree(record, ("completion", "output"))  # TRL's, and LLaMA-Factory's beside "instruction"
    answers = [key for key in ("completion", "output") if not is_empty(record.get(key))][:1]
    if answers and messages and messages[-1].role == "assistant":
        check_repeats(messages[-1:], record, answers[0])
    elif answers:
        messages = [*messages, *_answer(record, answers[0])]
    return with_earlier(record, messages)


def _read_match(record: Mapping[str, object]) -> Iterator[Row]:
    is_query = "query" in record
    # sentence-transformers: "negative", or "negative_1", "negative_2", ...
    numbered = sorted(filter(NUMBERED_NEGATIVE.fullmatch, record), key=lambda key: (len(key), key))
    for key in ("anchor", "positive", "negatives", "negative", *numbered) if is_query else ("pos", "neg"):
        if not is_empty(record.get(key)):
            form = "'query' and 'pos'" if is_query else "'anchor' and 'positive'"
            raise RecordError(f"has {form}, and '{key}' of another form; keep one.")
    if is_query:
        negatives = _texts(record, "neg")
        positives = _texts(record, "pos")
        if not positives:
            raise RecordError("has an empty list as 'pos'.")
        query = required_text(record, "query")
        yield from (match_row(query, positive, negatives) for positive in positives)
        return
    negatives = _texts(record, "negatives")
    negatives += [required_text(record, key) for key in ("negative", *numbered) if record.get(key)]
    yield match_row(required_text(record, "anchor"), required_text(record, "positive"), negatives)


def _read_text(record: Mapping[str, object]) -> Iterator[Row]:
    yield text_row(required_text(record, "text"))


KINDS: dict[str, RowKind] = {
    kind.name: kind
    for kind in (
        RowKind("chat", ROW_SCHEMA, _read_chat),
        RowKind(
            "preference",
            pa.schema([_ID, _MESSAGES, ("chosen", pa.string()), ("rejected", pa.string()), *_SOURCE]),
            _read_preference,
        ),
        RowKind("judgement", pa.schema([_ID, _MESSAGES, ("label", pa.bool_()), *_SOURCE]), _read_judgement),
        RowKind(
            "match",
            pa.schema(
                [
                    _ID,
                    ("anchor", pa.string()),
                    ("positive", pa.string()),
                    ("negatives", pa.list_(pa.string())),
                    *_SOURCE,
                ]
            ),
            _read_match,
        ),
        RowKind("text", pa.schema([_ID, ("text", pa.string()), *_SOURCE]), _read_text),
    )
}
"""The kinds by name."""


def _prompt(record: Mapping[str, object]) -> list[Message]:
    """The turns that a record gives beside its answers; none if it doesn't."""
    if record.get("messages") is not None or record.get("conversations") is not None:
        messages = parse_turns(record)
        check_repeats(messages, record, "prompt")
        return messages
    prompt, instruction = record.get("prompt"), record.get("instruction")
    if not (isinstance(prompt, str) and isinstance(instruction, str) and instruction.strip() in prompt):
        check_agree(record, ("prompt", "instruction"))
    if turns_in(record.get("prompt")):
        messages = parse_turns({"messages": turns_in(record["prompt"])}, shown_as="prompt")
    elif record.get("prompt") is not None:
        messages = [Message("user", question_text(record, "prompt"))]
    elif record.get("instruction") is not None:
        messages = [Message("user", question_text(record))]
    else:
        return []
    return messages


def _check_trained(answer: Message) -> None:
    if answer.images:
        raise RecordError("has images in the answer that is compared; only texts are.")
    if answer.tool_calls:
        raise RecordError("has tool calls as the answer that is compared; only texts are.")
    if answer.train is False:
        raise RecordError("marks the answer that is compared as not trained; leave the row out instead.")


def _answer(record: Mapping[str, object], key: str) -> list[Message]:
    """An answer in any of its forms: a text, a message, or messages."""
    value = record[key]
    turns = [value] if isinstance(value, Mapping) else turns_in(value)
    if turns or isinstance(value, list):
        return parse_turns({"messages": turns}, shown_as=key)
    return [Message("assistant", required_text(record, key))]


def _texts(record: Mapping[str, object], key: str) -> list[str]:
    values = parsed_list(record.get(key))
    if is_empty(values):
        return []
    if not isinstance(values, list):
        raise RecordError(f"has {kind_name(values)} as '{key}', not a list of texts.")
    return [required_text({f"{key}[{index}]": value}, f"{key}[{index}]") for index, value in enumerate(values)]
