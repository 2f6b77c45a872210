"""What people wrote one after another, as turns of a user and an assistant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["conversation"]


def conversation(said: Iterable[tuple[str, str]], *, asks: str) -> dict[str, Any]:
    """Return a record of messages; what one side wrote in a row becomes one turn.

    Turns after the last answer are left out. A conversation that nobody answered has no messages of an assistant, and
    is refused where it is parsed.

    Args:
        said: author and text of each message, in order.
        asks: the author who asks; all others answer.
    """
    turns: list[dict[str, Any]] = []
    for author, text in said:
        role = "user" if author == asks else "assistant"
        if not text.strip():
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n{text.strip()}"
        else:
            turns.append({"role": role, "content": text.strip()})
    answered = max((at for at, turn in enumerate(turns) if turn["role"] == "assistant"), default=len(turns) - 1)
    return {"messages": turns[: answered + 1]}
