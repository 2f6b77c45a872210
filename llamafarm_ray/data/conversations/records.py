"""A record of a log as turns: feedback, requests with their responses, tickets, and chats of any known format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamafarm_ray.data.conversations.zendesk import is_ticket, ticket_turns
from llamafarm_ray.data.feedback import Feedback
from llamafarm_ray.data.formats import RecordError
from llamafarm_ray.data.records import BadRecord
from llamafarm_ray.data.rows import Message
from llamafarm_ray.data.training_rows import parse_row
from llamafarm_ray.errors import InputError

__all__ = ["Unusable", "record_turns"]

_LIKED = 0.5


class Unusable(Exception):  # noqa: N818 - a reason to leave a record out, not a fault
    """A record gives no conversation; the text says why and is counted."""


def record_turns(record: object) -> tuple[Message, ...]:
    """Return the turns of a record.

    Raises:
        Unusable: it gives none.
    """
    if isinstance(record, BadRecord):
        raise Unusable("record that can't be read")
    if not isinstance(record, Mapping):
        raise Unusable("record that is no object")
    if is_ticket(record):
        turns = ticket_turns(record)
        if not turns:
            raise Unusable("ticket without a public answer")
        return turns
    if isinstance(record.get("answer"), str) and isinstance(record.get("messages"), list):
        return _feedback(record)
    return _chat(_with_response(record))


def _feedback(record: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return a conversation with the answer that a user liked, or wrote instead."""
    try:
        said = Feedback.of(record)
    except (InputError, KeyError, TypeError, AttributeError):
        raise Unusable("feedback that is not sound") from None
    if said.correction:
        return (*said.messages, Message("assistant", said.correction))
    if said.rating is not None and said.rating < _LIKED:
        raise Unusable("answer that was rated as bad")
    return (*said.messages, Message("assistant", said.answer))


def _with_response(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the chat of a logged request with its response, as OpenAI's API has them; another record as it is."""
    request, response = record.get("request"), record.get("response")
    if not isinstance(request, Mapping) or not isinstance(response, Mapping):
        return record
    request, response = (
        part["body"] if isinstance(part.get("body"), Mapping) else part for part in (request, response)
    )
    choices = response.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise Unusable("request without an answer")
    if choices[0].get("finish_reason") == "length":
        raise Unusable("answer that was cut")
    tools = {"tools": request["tools"]} if request.get("tools") else {}
    return {"messages": [*(request.get("messages") or ()), choices[0].get("message")], **tools}


def _chat(record: Mapping[str, Any]) -> tuple[Message, ...]:
    try:
        kind, rows = parse_row(record)
    except RecordError:
        raise Unusable("record that is no conversation") from None
    if kind.name != "chat":
        raise Unusable("record that is no conversation")
    if rows[0].get("tools"):
        raise Unusable("conversation with tools")
    return tuple(map(Message.of, rows[0]["messages"]))
