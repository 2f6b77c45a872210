"""Records of other tools' logs as chats: tickets, feedback, and requests with their responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llamafarm_ray.data.conversations.zendesk import is_ticket, ticket_turns
from llamafarm_ray.data.feedback import Feedback
from llamafarm_ray.data.records import BadRecord
from llamafarm_ray.data.rows import Message
from llamafarm_ray.errors import InputError

__all__ = ["as_chat"]

_LIKED = 0.5


def as_chat(record: object) -> object:
    """Return a record of messages for a ticket, feedback or a logged request, and any other record as it is.

    A record that gives no conversation becomes a `BadRecord`.
    """
    if not isinstance(record, Mapping):
        return record
    if is_ticket(record):
        turns = ticket_turns(record)
        return _chat(turns) if turns else BadRecord("is a ticket without a public answer.")
    is_choice = {"chosen", "rejected", "version", "principal"} <= record.keys()
    if (is_choice or isinstance(record.get("answer"), str)) and isinstance(record.get("messages"), list):
        return _feedback(record)
    return _with_response(record)


def _chat(turns: Sequence[Message]) -> dict[str, object]:
    return {"messages": [turn.to_turn() for turn in turns]}


def _feedback(record: Mapping[str, object]) -> object:
    """Return a chat with the answer that a user liked, or wrote instead."""
    try:
        said = Feedback.of(record)
    except (InputError, KeyError, TypeError, AttributeError):
        return BadRecord("is feedback that is not sound.")
    if said.correction:
        return _chat((*said.messages, Message("assistant", said.correction)))
    if said.rating is not None and said.rating < _LIKED:
        return BadRecord("has an answer that was rated as bad.")
    return _chat((*said.messages, Message("assistant", said.answer)))


def _with_response(record: Mapping[str, object]) -> object:
    """Return the chat of a logged request with its response, as OpenAI's API has them; another record as it is."""
    request, response = record.get("request"), record.get("response")
    if not isinstance(request, Mapping) or not isinstance(response, Mapping):
        return record
    request, response = (
        part["body"] if isinstance(part.get("body"), Mapping) else part for part in (request, response)
    )
    choices = response.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        return BadRecord("is a request without an answer.")
    if choices[0].get("finish_reason") == "length":
        return BadRecord("has an answer that was cut.")
    messages = request.get("messages")
    if not isinstance(messages, list):
        return BadRecord("is a request without messages.")
    tools = {"tools": request["tools"]} if request.get("tools") else {}
    return {"messages": [*messages, choices[0].get("message")], **tools}
