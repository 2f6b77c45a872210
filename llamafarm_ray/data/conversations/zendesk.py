"""Zendesk's export of tickets: who requested asks, public comments of others answer.

Source of the format: https://developer.zendesk.com/api-reference/ticketing (a ticket with requester_id, subject and
comments with author_id, plain_body or body, and public). Files have a ticket a line, or a list of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from llamafarm_ray.data.conversations.turns import conversation

__all__ = ["is_ticket", "ticket_conversation"]


def is_ticket(record: object) -> TypeGuard[Mapping[str, Any]]:
    """Return True for a ticket with its comments."""
    return isinstance(record, Mapping) and "requester_id" in record and isinstance(record.get("comments"), list)


def ticket_conversation(ticket: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ticket as a record of messages; its subject begins the first turn, private comments are left out."""
    asks = str(ticket["requester_id"])
    comments = [comment for comment in ticket["comments"] if comment.get("public", True)]
    said = [
        (str(comment.get("author_id")), str(comment.get("plain_body") or comment.get("body") or ""))
        for comment in comments
    ]
    subject = str(ticket.get("subject") or "").strip()
    if subject and not (said and said[0][1].startswith(subject)):
        said.insert(0, (asks, subject))
    return conversation(said, asks=asks)
