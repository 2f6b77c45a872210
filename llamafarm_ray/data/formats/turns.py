"""Turns of a conversation, as OpenAI, ShareGPT, LLaMA-Factory, Axolotl and ms-swift write them."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from typing import Literal

from llamafarm_ray.data.formats.images import IMAGE_PARTS, MARK, image_of_part, images_of_turn
from llamafarm_ray.data.formats.tools import call_of_function, name_of_call, normal_calls
from llamafarm_ray.data.formats.values import (
    RecordError,
    check_agree,
    is_empty,
    kind_name,
    parsed_list,
    required_text,
    text_of,
)
from llamafarm_ray.data.rows import Message

__all__ = ["TURN_KEYS", "UNAVAILABLE", "RecordError", "parse_turns", "refuse_unavailable", "required_text"]

_ROLES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "developer": "system",  # OpenAI's name for the system prompt of reasoning models
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_call": "assistant",
}
_SHOWN_ROLES = ("system", "developer", "user", "assistant", "tool")
_SHOWN_NAMES = ("human", "gpt", "system", "observation", "function_call")

UNAVAILABLE: Mapping[str, str] = types.MappingProxyType(
    {
        "tool_choice": "chat templates have no place for it; remove it",
        **dict.fromkeys(
            ("reasoning_content", "reasoning", "thinking"),
            "put the reasoning into the text, between the marks that the model's template uses (<think>...</think>)",
        ),
        **dict.fromkeys(
            ("videos", "video", "audios", "audio"), "only text and references to images are kept; remove such rows"
        ),
        "chat_template_kwargs": "the chat template gets messages and tools only",
    }
)
"""Keys of a record or a turn that other tools use, and what to do here instead."""

_UNAVAILABLE_IN_TURNS = {
    **UNAVAILABLE,
    "tools": "tools belong to the record, beside its turns",
    "refusal": "put the refusal's text into 'content'",
    "train_detail": "a turn is trained as a whole or not at all",
}

_WEIGHTS = {"weight": (0, 1), "train": (False, True), "training": (False, True), "loss": (False, True)}
"""Keys that say if a turn is trained, with their values for no and yes."""

TURN_KEYS = frozenset(
    {
        *("role", "from", "content", "value", "name", "tool_calls", "function_call", "tool_call_id", "images", "image"),
        *_WEIGHTS,
    }
)
"""Keys of a turn that are read."""


def parse_turns(record: Mapping[str, object], *, shown_as: str = "") -> list[Message]:
    """Return the turns under ``messages`` or ``conversations``: role and content, or from and value.

    Args:
        shown_as: the key's name in messages, where it isn't that.

    Raises:
        RecordError: they are no list of turns.
    """
    key = "messages" if not is_empty(record.get("messages")) or "conversations" not in record else "conversations"
    turns, shown = parsed_list(record.get(key)), shown_as or key
    if not isinstance(turns, list) or not turns:
        raise RecordError(f"has {kind_name(turns)} as '{shown}', not a list of turns.")
    messages: list[Message] = []
    for index, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise RecordError(f"has {kind_name(turn)} as {shown}[{index}], not an object.")
        messages.append(_turn(turn, f"{shown}[{index}].", messages))
    return messages


def refuse_unavailable(found: Mapping[str, object], prefix: str, unavailable: Mapping[str, str]) -> None:
    """Refuse keys with a meaning that is not available.

    Raises:
        RecordError: naming the key, and what to do instead.
    """
    for key, instead in unavailable.items():
        if not is_empty(found.get(key)):
            raise RecordError(f"has '{prefix}{key}', which can't be used: {instead}.")


def _turn(turn: Mapping[str, object], where: str, before: list[Message]) -> Message:
    role_key = "from" if "from" in turn and "role" not in turn else "role"
    text_key = "value" if "value" in turn and "content" not in turn else "content"
    if role_key == "from" and "content" not in turn:
        text_key = "value"
    said = turn.get(role_key)
    if not isinstance(said, str) or said not in _ROLES:
        roles = ", ".join(_SHOWN_NAMES if role_key == "from" else _SHOWN_ROLES)
        raise RecordError(f"has {said!r} as {where}{role_key}, not one of {roles}.")
    refuse_unavailable(turn, where, _UNAVAILABLE_IN_TURNS)
    role = _ROLES[said]
    if _ROLES.get(str(turn.get("from")), role) != role:
        raise RecordError(f"has '{where}role' and '{where}from', which differ; keep one.")
    check_agree(turn, ("content", "value"), where)
    forms = {"tool_calls": normal_calls, "function_call": call_of_function}
    check_agree(turn, tuple(forms), where, read=lambda name: forms[name](_without_ids(turn[name]), f"{where}{name}"))
    train = _train_mark(turn, where, is_answer=role == "assistant")
    calls = _calls(turn, said, text_key, where)
    images = _images(turn, text_key, where)
    if images and role != "user":
        raise RecordError(f"has images at {where[:-1]}, a turn of the role {said}; only users show images.")
    if calls and role != "assistant":
        raise RecordError(f"has tool calls at {where[:-1]}, a turn of the role {said}; only the assistant calls tools.")
    content = "" if said == "function_call" else _content(turn, text_key, where, optional=bool(calls) or role == "tool")
    if role == "tool":
        call_id = text_of(turn, "tool_call_id", where, optional=True)
        name = text_of(turn, "name", where, optional=True) or name_of_call(before, call_id)
        return Message("tool", content, name=name or None, tool_call_id=call_id or None)
    if not is_empty(turn.get("name")):
        raise RecordError(
            f"has '{where}name', which can't be used: templates write roles, not names; put it in the text."
        )
    return Message(role, content, train, tool_calls=calls, images=images)  # type: ignore[arg-type]


def _images(turn: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
    """Return the references of a turn's images: of its parts, or beside its text with as many marks.

    A part that refers to the record's images gives "", see `place_images`.

    Raises:
        RecordError: see `images_of_turn` and `image_of_part`; or their number is not that of the marks.
    """
    beside = images_of_turn(turn, where)
    content = turn.get(key)
    parts = content if isinstance(content, list) else []
    shown = [(index, part) for index, part in enumerate(parts) if _is_image(part)]
    inside = [image_of_part(part, f"{where}{key}[{index}]") for index, part in shown]
    num_marks = content.count(MARK) if isinstance(content, str) else len(inside)
    if beside and (len(beside) != num_marks or (any(inside) and inside != beside)):
        raise RecordError(f"has {len(beside)} images at {where[:-1]}, and {num_marks} marks {MARK} for them.")
    return tuple(beside or inside)


def _is_image(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") in IMAGE_PARTS


def _calls(turn: Mapping[str, object], said: str, text_key: str, where: str) -> str | None:
    """Return the calls of a turn as canonical JSON; None if it has none."""
    if said == "function_call":  # LLaMA-Factory: the call is the text
        return normal_calls(turn.get(text_key), f"{where}{text_key}")
    if not is_empty(turn.get("function_call")):
        return call_of_function(turn["function_call"], f"{where}function_call")
    return normal_calls(turn.get("tool_calls"), f"{where}tool_calls")


def _content(turn: Mapping[str, object], key: str, where: str, *, optional: bool) -> str:
    """Return a turn's text; parts are joined with line ends, as vLLM joins them, and an image is a mark."""
    parts = turn.get(key)
    if not isinstance(parts, list):
        return text_of(turn, key, where, optional=optional)
    texts = []
    for index, part in enumerate(parts):
        if isinstance(part, str):
            texts.append(part)
            continue
        if _is_image(part):
            texts.append(MARK)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
            found = f"a part of type {kind!r}" if isinstance(kind, str) else kind_name(part)
            raise RecordError(f"has {found} as {where}{key}[{index}]; only texts and images are known.")
        texts.append(part["text"])
    return text_of({key: "\n".join(texts)}, key, where, optional=optional)


def _without_ids(calls: object) -> object:
    """Return calls of tools without their ids, which the older form lacks."""
    calls = parsed_list(calls)
    if not isinstance(calls, list):
        return calls
    return [
        {key: value for key, value in call.items() if key != "id"} if isinstance(call, Mapping) else call
        for call in calls
    ]


def _train_mark(turn: Mapping[str, object], where: str, *, is_answer: bool) -> Literal[False] | None:
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
