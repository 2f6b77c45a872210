"""Rows that ask with passages at hand, as a model is asked that is served with retrieval.

A model that only learned questions and answers by heart reads worse than its base. So the training split asks each
fact twice: by heart, and with the passage that answers it beside another one. Several questions about a passage share
a row, one after another, because the passages are most of its length.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llamafarm_ray.data.by_heart import joined_row
from llamafarm_ray.data.retrieval import PassageIndex
from llamafarm_ray.data.rows import Message
from llamafarm_ray.data.text import text_digest

__all__ = ["INSTRUCTIONS", "QUESTIONS_PER_ROW", "ask_with_passages", "rows_with_passages"]

QUESTIONS_PER_ROW = 4
_CANDIDATES = 3
INSTRUCTIONS = (
    "Answer the question with the help of these passages.",
    "Use the passages to answer the question.",
    "Answer from the passages below.",
)


def ask_with_passages(question: str, passages: Sequence[str], instruction: str = INSTRUCTIONS[0]) -> str:
    """Return the prompt that asks a question with passages; what a trained model has seen.

    Args:
        question: the question.
        passages: the passages that a retriever found.
        instruction: the first line.
    """
    return "\n\n".join([instruction, *passages, f"Question: {question}"])


def rows_with_passages(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield rows that ask with passages.

    The second passage comes from the same document, the one that fits the first question best: the hardest to tell
    apart, and no text of another document gets into the row. Which of the two comes first is decided by a digest.

    Args:
        rows: rows of questions and answers with the columns of ``ROW_SCHEMA`` and ``fact``, those of a document
            together and in its order. Of the wordings of a fact the first is used.
    """
    for _, group in itertools.groupby(rows, key=lambda row: row["document"]):
        by_passage: dict[str, dict[str, Mapping[str, Any]]] = {}
        for row in group:
            by_passage.setdefault(row["passage"], {}).setdefault(row["fact"], row)
        finder = _Finder(list(by_passage))
        for passage, facts in by_passage.items():
            asked = list(facts.values())
            for start in range(0, len(asked), QUESTIONS_PER_ROW):
                yield _row(passage, asked[start : start + QUESTIONS_PER_ROW], finder)


class _Finder:
    """Finds passages of one document by BM25."""

    def __init__(self, passages: list[str]) -> None:
        self._passages = passages
        self._index = PassageIndex(passages)

    def other(self, question: str, passage: str) -> str | None:
        """Return the passage that fits the question best, ``passage`` apart; None if there is no other."""
        others = (self._passages[index] for index, _ in self._index.search(question, _CANDIDATES))
        return next((each for each in others if each != passage), None)


def _row(passage: str, asked: Sequence[Mapping[str, Any]], finder: _Finder) -> dict[str, Any]:
    first = asked[0]
    question = first["messages"][-2]["content"]
    passages = [each for each in (passage, finder.other(question, passage)) if each is not None]
    digest = int(text_digest([first["id"]])[:8], 16)
    if digest % 2:
        passages.reverse()
    prompt = ask_with_passages(question, passages, INSTRUCTIONS[digest // 2 % len(INSTRUCTIONS)])
    turns = [Message("user", prompt), Message("assistant", first["messages"][-1]["content"])]
    for row in asked[1:]:
        turns += [Message(turn["role"], turn["content"]) for turn in row["messages"][-2:]]
    return joined_row(asked, turns, ())
