"""A conversation of a log, and turns made from what several people wrote."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llamafarm_ray.data.rows import Message
from llamafarm_ray.types import Digest

__all__ = ["Conversation", "turns_of"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation.

    Args:
        document: name of its log.
        document_digest: of the log's bytes.
        messages: turns, the last one an assistant's.
        dropped: the reason why it can't be used; "" if it can.
        sample: its text, for a report.
    """

    document: str
    document_digest: Digest
    messages: tuple[Message, ...] = ()
    dropped: str = ""
    sample: str = ""


def turns_of(said: Iterable[tuple[bool, str]]) -> tuple[Message, ...]:
    """Return turns that begin with a user's and end with an assistant's; none without an answer.

    Args:
        said: messages in order: True for a user's turn, and its text. Consecutive messages of one side become one turn.
    """
    turns: list[tuple[bool, list[str]]] = []
    for is_asker, text in ((is_asker, text.strip()) for is_asker, text in said):
        if not text or (not turns and not is_asker):
            continue
        if turns and turns[-1][0] == is_asker:
            turns[-1][1].append(text)
        else:
            turns.append((is_asker, [text]))
    if turns and turns[-1][0]:
        turns.pop()  # thanks, or a question without an answer
    return tuple(Message("user" if is_asker else "assistant", "\n".join(texts)) for is_asker, texts in turns)
