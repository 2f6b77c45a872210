"""Rows that ask with passages at hand, as a model is asked that is served with retrieval.

A model that only learned questions and answers by heart reads worse than its base. So the training split asks each
fact both ways: by heart in every pass, and in every second one also with the passage that answers it beside another.
Several questions about a passage share a row, one after another, because the passages are most of its length.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llamafarm_ray.data.by_heart import joined_row, reworded
from llamafarm_ray.data.retrieval import PassageIndex
from llamafarm_ray.data.rows import Message
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.data.text.near_words import NearWords

__all__ = ["INSTRUCTIONS", "QUESTIONS_PER_ROW", "ask_with_passages", "rows_with_passages"]

QUESTIONS_PER_ROW = 4
_CANDIDATES = 3
_PASSES_BY_HEART = 2  # for one pass with passages, which are most of the tokens
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


def rows_with_passages(
    rows: Iterable[Mapping[str, Any]], *, seed: int = 0, passes: int = 1, near_words: NearWords | None = None
) -> Iterator[dict[str, Any]]:
    """Yield rows that ask with passages, each fact in every second pass.

    The second passage comes from the same document, the one that fits the first question best: the hardest to tell
    apart, and no text of another document gets into the row. Which of the two comes first is decided by a digest.

    Args:
        rows: rows of questions and answers with the columns of ``ROW_SCHEMA`` and ``fact``, those of a document
            together and in its order. The first pass uses the first wording of a fact, the next one the second. A
            pass that has no wording left asks an earlier one with some words replaced.
        seed: decides which facts share a row after the first pass, where it is the order of the document.
        passes: passes over the facts.
        near_words: words of like meaning; None keeps the words.
    """
    for _, group in itertools.groupby(rows, key=lambda row: row["document"]):
        by_passage: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
        for row in group:
            by_passage.setdefault(row["passage"], {}).setdefault(row["fact"], []).append(row)
        finder = _Finder(list(by_passage))
        for passage, facts in by_passage.items():
            seen: set[str] = set()
            for number in range(math.ceil(passes / _PASSES_BY_HEART)):
                rng = random.Random(f"{seed} {number} {text_digest([passage])}")
                asked = [_asked(wordings, number, near_words, rng) for wordings in facts.values()]
                if number:
                    rng.shuffle(asked)
                for start in range(0, len(asked), QUESTIONS_PER_ROW):
                    row = _row(passage, asked[start : start + QUESTIONS_PER_ROW], finder)
                    if row["id"] not in seen:
                        seen.add(row["id"])
                        yield row


_Asked = tuple[Mapping[str, Any], str]


def _asked(
    wordings: Sequence[Mapping[str, Any]], number: int, near_words: NearWords | None, rng: random.Random
) -> _Asked:
    """Return a row of a fact with the question of this pass."""
    row = wordings[number % len(wordings)]
    question = row["messages"][-2]["content"]
    return row, question if number < len(wordings) else reworded(question, near_words, rng)


class _Finder:
    """Finds passages of one document by BM25."""

    def __init__(self, passages: list[str]) -> None:
        self._passages = passages
        self._index = PassageIndex(passages)

    def other(self, question: str, passage: str) -> str | None:
        """Return the passage that fits the question best, ``passage`` apart; None if there is no other."""
        others = (self._passages[index] for index, _ in self._index.search(question, _CANDIDATES))
        return next((each for each in others if each != passage), None)


def _row(passage: str, asked: Sequence[_Asked], finder: _Finder) -> dict[str, Any]:
    question = asked[0][1]
    passages = [each for each in (passage, finder.other(question, passage)) if each is not None]
    digest = int(text_digest([asked[0][0]["id"], question])[:8], 16)
    if digest % 2:
        passages.reverse()
    questions = [question for _, question in asked]
    questions[0] = ask_with_passages(question, passages, INSTRUCTIONS[digest // 2 % len(INSTRUCTIONS)])
    turns = []
    for (row, _), prompt in zip(asked, questions, strict=True):
        turns += [Message("user", prompt), Message("assistant", row["messages"][-1]["content"])]
    return joined_row([row for row, _ in asked], turns, ())
