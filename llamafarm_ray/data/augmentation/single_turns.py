"""Rows of one question, for formats that hold one question and its answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llamafarm_ray.data.augmentation.with_passages import ask_with_texts
from llamafarm_ray.data.rows import Message, chat_id

__all__ = ["single_turns"]

_QUESTION = ask_with_texts("", [], "")
"""Text between the passages of a prompt and its question."""


def single_turns(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each question of a row that was made with `joined_row`.

    The passages stand before the first question alone; each of the others gets them too.

    Args:
        row: turns of the user and of the assistant, one after the other.
    """
    turns = row["messages"]
    passages, mark, _ = str(turns[0]["content"]).rpartition(_QUESTION)
    for at in range(0, len(turns), 2):
        question = turns[at]["content"]
        prompt = f"{passages}{mark}{question}" if at else question
        messages = [{**turns[at], "content": prompt}, dict(turns[at + 1])]
        yield {**row, "id": chat_id(map(Message.of, messages)), "messages": messages}
