"""Zendesk's exports: tickets with their comments. The ticket's requester asks, and agents' public comments answer.

The layout is that of https://developer.zendesk.com/api-reference/ticketing/tickets/ticket_comments/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamafarm_ray.data.conversations.conversation import turns_of
from llamafarm_ray.data.rows import Message

__all__ = ["is_ticket", "ticket_turns"]


def is_ticket(record: Mapping[str, object]) -> bool:
    """Return True if a record is a ticket, or holds one beside its comments."""
    return isinstance(record.get("comments"), list) and (
        "requester_id" in record or isinstance(record.get("ticket"), Mapping)
    )


def ticket_turns(record: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the turns of a ticket; none without a public answer."""
    ticket = record.get("ticket") if isinstance(record.get("ticket"), Mapping) else record
    assert isinstance(ticket, Mapping)  # one of two mappings
    requester = ticket.get("requester_id")
    comments = [one for one in record["comments"] if isinstance(one, Mapping) and one.get("public") is not False]
    comments.sort(key=lambda comment: str(comment.get("created_at") or ""))
    said = [(comment.get("author_id") == requester, _body(comment)) for comment in comments]
    description = _clean(ticket.get("description"))
    if description and (not said or said[0][1].split() != description.split()):
        said.insert(0, (True, description))
    subject = str(ticket.get("subject") or "").strip()
    if subject and said and said[0][0] and subject.lower() not in said[0][1].lower():
        said[0] = (True, f"{subject}\n\n{said[0][1]}")
    return turns_of(said)


def _body(comment: Mapping[str, object]) -> str:
    return _clean(comment.get("plain_body") or comment.get("body"))


def _clean(text: object) -> str:
    return str(text or "").replace("\r\n", "\n").strip()
