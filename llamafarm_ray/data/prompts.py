"""The prompt that a model is asked with in production, around the questions of a dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llamafarm_ray.data.rows import Message, chat_id

__all__ = ["Prompt"]

_PLACE = re.compile(r"\{(question|context)\}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A template for the first user turn, and a system turn.

    Args:
        template: text with ``{question}``, and ``{context}`` where the passage goes; None: the question alone.
        system: text of the system turn; None for none.
    """

    template: str | None = None
    system: str | None = None

    def applied_to(self, row: Mapping[str, Any]) -> dict[str, object]:
        """Return a chat row with the prompt. A conversation that has a system turn keeps its own."""
        if self.template is None and self.system is None:
            return dict(row)
        turns = [dict(turn) for turn in row["messages"]]
        first = next((turn for turn in turns if turn["role"] == "user"), None)
        if self.template is not None and first is not None:
            filled = {"question": first["content"], "context": row["passage"]}
            first["content"] = _filled(self.template, filled)
        if self.system is not None and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": self.system})
        return {**row, "id": chat_id(map(Message.of, turns), row.get("tools")), "messages": turns}


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Replace the named places only: other braces, as in JSON, are text, and values are not searched again."""
    return _PLACE.sub(lambda match: values[match[1]], template)
