"""Rows of practice: questions about invented pages, answered from them.

Questions that a small model wrote teach the facts of a document, and little about reading: half of them are not what
a reader would ask. A few rows of the lessons, whose questions and answers are good, teach to find the answer in the
passages that were retrieved. The texts are invented, so that nothing is learned from them but that.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

from llamafarm_ray.data.lessons import LESSONS_VERSION, Lesson, LessonPair, load_lessons
from llamafarm_ray.data.rows import ROW_SCHEMA, Message, Provenance
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.data.with_passages import INSTRUCTIONS, QUESTIONS_PER_ROW, ask_with_passages

__all__ = ["MAX_PRACTICE_ROWS", "practice_rows"]

MAX_PRACTICE_ROWS = 40
"""Most rows of practice in a dataset. With them a 135M model trained on its own questions about a small corpus answered
20 of 40 questions with passages; without them 11."""

_LESSONS_PER_PAGE = 5


def practice_rows(num_rows: int, *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield rows with the columns of ``ROW_SCHEMA`` and ``covers``.

    Args:
        num_rows: as many as there are rows with passages of the dataset's own, so that both shape what is learned.
        seed: decides which lessons share a page.
    """
    rng = random.Random(seed)
    return itertools.islice(_rows(load_lessons(), rng), min(num_rows, MAX_PRACTICE_ROWS))


def _rows(lessons: Sequence[Lesson], rng: random.Random) -> Iterator[dict[str, Any]]:
    shuffled = rng.sample(lessons, len(lessons))
    groups = [shuffled[start : start + _LESSONS_PER_PAGE] for start in range(0, len(shuffled), _LESSONS_PER_PAGE)]
    pages = ["\n".join(f"{lesson.topic}\n{lesson.whole}" for lesson in group) for group in groups]
    for at, group in enumerate(groups):
        pairs = [pair for lesson in group for pair in lesson.pairs]
        rng.shuffle(pairs)
        other = pages[(at + rng.randrange(1, len(pages))) % len(pages)]
        for start in range(0, len(pairs), QUESTIONS_PER_ROW):
            passages = rng.sample([pages[at], other], 2)
            yield _row(pairs[start : start + QUESTIONS_PER_ROW], passages, rng.choice(INSTRUCTIONS))


def _row(pairs: Sequence[LessonPair], passages: Sequence[str], instruction: str) -> dict[str, Any]:
    turns = []
    for index, pair in enumerate(pairs):
        prompt = pair.question if index else ask_with_passages(pair.question, passages, instruction)
        turns += [Message("user", prompt), Message("assistant", pair.answer)]
    row = {
        "id": text_digest(part for turn in turns for part in turn.parts),
        "messages": [turn.to_turn() for turn in turns],
        "document": "",
        "document_digest": "",
        "passage": "",
        "provenance": Provenance("practice", "", f"lessons-{LESSONS_VERSION}", "").to_json(),
        "covers": [],
    }
    return {**dict.fromkeys(ROW_SCHEMA.names), **row}
