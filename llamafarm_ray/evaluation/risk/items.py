"""Items of risk tests: questions with passages, and the sets that come with this package."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["READING_SET", "MakePrompt", "ReadingItem", "read_sample", "reading_set"]

MakePrompt = Callable[[str, Sequence[str]], str]
"""Returns the prompt that asks a question with passages."""

READING_SET = "reading set 1"
"""Name of the questions that come with this package."""


@dataclass(frozen=True, slots=True)
class ReadingItem:
    """A question, and the texts to read for it.

    Args:
        is_whole: True if the right answers are whole sentences.
    """

    id: str
    question: str
    accepted: tuple[str, ...]
    passages: tuple[str, ...]
    is_whole: bool = False


def read_sample(name: str) -> Any:
    """Return the content of a file in ``samples``."""
    file = importlib.resources.files(__package__).joinpath("samples", f"{name}.json")
    return json.loads(file.read_text(encoding="utf-8"))


def reading_set() -> tuple[ReadingItem, ...]:
    """Return the questions that come with this package; each has its passage and that of another question."""
    rows = read_sample("reading")
    passages = [row["passage"] for row in rows]
    return tuple(
        ReadingItem(
            str(number),
            row["question"],
            tuple(row["answers"]),
            (row["passage"], passages[number % len(passages)]),
        )
        for number, row in enumerate(rows, 1)
    )
