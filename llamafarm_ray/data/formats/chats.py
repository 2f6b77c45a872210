"""Conversations in every form that is read: turns, or a question and its answer under one of many names.

::

    chatml      {"messages": [{"role": "user", "content": "..."}, ...], "tools": [...]}      as OpenAI's API
    sharegpt    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", ...}]}
    alpaca      {"instruction": "...", "input": "", "output": "..."}                         one turn
    Dolly       {"instruction": "...", "context": "", "response": "..."}
    TRL         {"prompt": "..." or [...], "completion": "..." or [...]}
    pairs       {"question": "...", "answer": "..."}, {"query": ..., "response": ...}, {"input": ..., "output": ...}

Beside any of them, ``system`` (or ``system_prompt``) is a system prompt, and ``history`` (LLaMA-Factory) lists earlier
turns as pairs of a question and its answer. An assistant turn with ``weight: 0`` (OpenAI), ``train: false`` or
``training: false`` (Axolotl), or ``loss: false`` (ms-swift) is context only. Keys with a meaning that is not available
are refused, see `UNAVAILABLE`; so are two names of one thing with different values. Other keys of records and turns are
notes of the file's author; reports name them, see `llamafarm_ray.data.unused_fields`.

Rows of other kinds are in `llamafarm_ray.data.training_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping

from llamafarm_ray.data.formats.images import place_images
from llamafarm_ray.data.formats.tools import normal_tools
from llamafarm_ray.data.formats.turns import UNAVAILABLE, parse_turns, refuse_unavailable
from llamafarm_ray.data.formats.values import (
    RecordError,
    check_agree,
    is_empty,
    kind_name,
    parsed_list,
    text_of,
    turns_in,
)
from llamafarm_ray.data.records import BadRecord
from llamafarm_ray.data.rows import Message, chat_id

__all__ = [
    "chat_row",
    "check_record_keys",
    "check_repeats",
    "parse_record",
    "question_and_answer",
    "question_text",
    "with_earlier",
]

_PAIRS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("instruction", ("output", "response")),
    ("prompt", ("completion", "response", "generation")),
    ("question", ("answer", "response")),
    ("query", ("response", "answer")),
    ("input", ("output", "response")),
)
"""Names of a question, and those that its answer may have then."""

_MORE = ("input", "context")
"""Keys whose text goes below the question."""


def parse_record(record: object) -> tuple[Message, ...]:
    """Return the conversation of one record of any form.

    Raises:
        RecordError: it has no such form, is missing something, or has a key that can't be used.
    """
    check_record_keys(record)
    assert isinstance(record, dict)  # checked a line above
    pair = question_and_answer(record)
    has_turns = any(not is_empty(record.get(key)) for key in ("messages", "conversations"))
    if has_turns or (pair is None and ("messages" in record or "conversations" in record)):
        messages = parse_turns(record)
        for key in pair or ():
            check_repeats(messages, record, key)
    elif pair is None:
        raise _no_pair(record)
    else:
        messages = _of_pair(record, *pair)
    messages = with_earlier(record, messages)
    if not any(message.role == "assistant" for message in messages):
        raise RecordError("has no assistant turn to learn from.")
    return tuple(messages)


def chat_row(record: Mapping[str, object]) -> dict[str, object]:
    """Return a record as a row, without the columns that say where it came from.

    Raises:
        RecordError: see `parse_record`; or its tools are no tools.
    """
    messages, tools = parse_record(record), normal_tools(record)
    return {
        "id": chat_id(messages, tools),
        "messages": [message.to_turn() for message in messages],
        **({"tools": tools} if tools else {}),
    }


_UNTRAINED = {"train": ("false", "no", "0"), "training": ("false", "no", "0"), "loss": ("false", "no")}
"""Keys of a record, and the values by which it says that it is not trained."""


def check_record_keys(record: object) -> None:
    """Check that a record is an object with one conversation, and no key with a meaning that is not available.

    Raises:
        RecordError: it is not.
    """
    if isinstance(record, BadRecord):
        raise RecordError(record.reason)
    if not isinstance(record, dict):
        raise RecordError(f"is {kind_name(record)}, not an object.")
    refuse_unavailable(record, "", UNAVAILABLE)
    if record.get("weight") not in (None, 1, "1"):
        raise RecordError(f"has {record['weight']!r} as 'weight'; all rows count alike. Mark turns, or remove the row.")
    for key, refused in _UNTRAINED.items():
        said = str(record.get(key)).strip().lower()  # a table's cells are text
        if said in refused:
            raise RecordError(f"has {said} as '{key}'; all rows are trained. Mark turns, or remove the row.")
    check_agree(record, ("system", "system_prompt"))
    check_agree(record, ("tools", "functions"), read=lambda name: normal_tools({"tools": record[name]}))
    given = [key for key in ("messages", "conversations", "instruction") if not is_empty(record.get(key))]
    if len(given) > 1:
        raise RecordError(f"has both '{given[0]}' and '{given[1]}'; keep one.")


def question_text(record: Mapping[str, object], key: str = "instruction") -> str:
    """Return the question under a key, and below it the text that it is about: ``input`` or ``context``.

    A prompt that holds that text already gets it once, and one beside something else than text gets none.

    Raises:
        RecordError: there is none.
    """
    question = text_of(record, key)
    names = [name for name in _MORE if name != key and (key != "prompt" or isinstance(record.get(name), str))]
    extra = [text_of(record, name, optional=True) for name in names]
    return "\n\n".join([question, *(text for text in extra if text and not (key == "prompt" and text in question))])


def with_earlier(record: Mapping[str, object], messages: list[Message]) -> list[Message]:
    """Return a record's turns after those that its ``history`` lists, and after its ``system`` prompt, with images.

    Raises:
        RecordError: ``history`` is no list of pairs, there are two system prompts, or images have no marks.
    """
    key = "system" if not is_empty(record.get("system")) else "system_prompt"
    system, rest = text_of(record, key, optional=True), messages
    own = messages[0].content if messages and messages[0].role == "system" else ""
    if system and own and system != own:
        raise RecordError(f"has one system prompt as '{key}' and another one among its turns; keep one.")
    if own:
        rest = messages[1:]
    first = [Message("system", system or own)] if system or own else []
    return place_images([*first, *_history(record.get("history")), *rest], record)


def question_and_answer(record: Mapping[str, object]) -> tuple[str, str] | None:
    """Return the names of the question and the answer of a record; None if it has no such pair.

    Raises:
        RecordError: it has two pairs.
    """
    pairs = [(question, answer) for question, answers in _PAIRS for answer in answers if _has(record, question, answer)]
    # "input" is the question where there is no other one.
    pairs = [pair for pair in pairs if pair[0] != "input"] or pairs
    if len(pairs) > 1:
        raise RecordError(f"has both '{'/'.join(pairs[0])}' and '{'/'.join(pairs[1])}'; keep one.")
    return pairs[0] if pairs else None


def check_repeats(messages: list[Message], record: Mapping[str, object], key: str) -> None:
    """Check that a question or an answer beside turns is one of them, as some tools write it; else it would be lost.

    A transcript that holds all turns but the assistant's repeats them too. Lists of texts are notes.

    Raises:
        RecordError: it is another one.
    """
    said = record.get(key)
    contents = {message: " ".join(message.content.split()) for message in messages}
    turns, asked = " ".join(contents.values()), [contents[one] for one in messages if one.role != "assistant"]
    listed = turns_in(said)
    texts: list[object] = [said]
    if listed and all(isinstance(turn, Mapping) for turn in listed):
        texts = [message.content for message in parse_turns({"messages": listed}, shown_as=key)]
    for text in texts:
        words = " ".join(text.split()) if isinstance(text, str) else ""
        if words not in turns and not (asked and all(one in words for one in asked)):
            raise RecordError(f"has turns, and in '{key}' a text that is none of them; keep one.")


def _of_pair(record: Mapping[str, object], question: str, answer: str) -> list[Message]:
    """Return the two turns of a pair, or the turns that TRL's ``prompt`` and ``completion`` list."""
    asked, said = turns_in(record[question]), turns_in(record[answer])
    if question == "prompt" and asked:
        turns = said or [{"role": "assistant", "content": record[answer]}]
        return [
            *parse_turns({"messages": asked}, shown_as=question),
            *parse_turns({"messages": turns}, shown_as=answer),
        ]
    return [Message("user", question_text(record, question)), Message("assistant", text_of(record, answer))]


def _has(record: Mapping[str, object], question: str, answer: str) -> bool:
    return not is_empty(record.get(question)) and not is_empty(record.get(answer))


def _no_pair(record: Mapping[str, object]) -> RecordError:
    """Return the error of a record that has half of a pair, or nothing that is known."""
    for question, answers in _PAIRS:
        if question in record and not is_empty(record.get(question)):
            present = next((answer for answer in answers if answer in record), None)
            if present is not None or question == "instruction":
                return _missing(record, present or answers[0])
    for question, answers in _PAIRS:
        if question in record and any(not is_empty(record.get(answer)) for answer in answers):
            return _missing(record, question)
    keys = ", ".join(map(repr, record)) or "none"
    return RecordError(f"has no known format; its keys are: {keys}.")


def _missing(record: Mapping[str, object], key: str) -> RecordError:
    try:
        text_of(record, key)
    except RecordError as error:
        return error
    return RecordError(f"is missing '{key}'.")


def _history(value: object) -> list[Message]:
    value = parsed_list(value)
    if is_empty(value):
        return []
    if not isinstance(value, list):
        raise RecordError(f"has {kind_name(value)} as 'history', not a list of pairs.")
    messages = []
    for index, pair in enumerate(value):
        if not isinstance(pair, list | tuple) or len(pair) != 2:  # a question and its answer
            raise RecordError(f"has {kind_name(pair)} as history[{index}], not a question and its answer.")
        texts = {f"history[{index}][{place}]": text for place, text in enumerate(pair)}
        question, answer = (text_of(texts, key) for key in texts)
        messages += [Message("user", question), Message("assistant", answer)]
    return messages
