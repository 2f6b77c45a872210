"""Rows of practice: questions about invented pages, answered from them.

Questions that a small model wrote teach the facts of a document, and little about reading: half of them are not what
a reader would ask. The package has pages on many subjects with questions as careful readers ask them, in words of
their own and without naming the page. Rows of them teach to find the answer in two passages about one subject, as
retrieval brings them. Every second row is easier: the texts of five lessons on different subjects are a passage, and
each question names its subject. All of them are invented, so that nothing else is learned from them.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafarm_ray.data.lessons import LESSONS_VERSION, Lesson, LessonPair, load_lessons
from llamafarm_ray.data.rows import ROW_SCHEMA, Message, Provenance
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.data.with_passages import INSTRUCTIONS, QUESTIONS_PER_ROW, ask_with_passages

__all__ = ["MAX_PRACTICE_ROWS", "Page", "PageQuestion", "load_pages", "practice_rows"]

MAX_PRACTICE_ROWS = 80
"""Most rows of practice in a dataset."""

_FILE = Path(__file__).with_name("practice.jsonl")
_LESSONS_PER_PAGE = 5
_PAGES_VERSION = "1"
"""To be raised when the pages change, so that rows written before are told apart."""


@dataclass(frozen=True, slots=True)
class PageQuestion:
    """A question about one passage of a page, and its answer, which can be understood alone."""

    passage: int
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Page:
    """An invented document: two or more passages, and questions about each."""

    title: str
    passages: tuple[str, ...]
    questions: tuple[PageQuestion, ...]


def load_pages() -> tuple[Page, ...]:
    """Return the pages of this package. They are in English."""
    pages = []
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        questions = tuple(PageQuestion(**question) for question in record["questions"])
        pages.append(Page(record["title"], tuple(record["passages"]), questions))
    return tuple(pages)


def practice_rows(num_rows: int, *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield rows with the columns of ``ROW_SCHEMA`` and ``covers``: from lessons and from pages in turn.

    One row of each page comes first, then the next of each.

    Args:
        num_rows: as many as there are rows with passages of the dataset's own, so that both shape what is learned.
        seed: decides the order and which questions share a row.
    """
    rng = random.Random(seed)
    pages = load_pages()
    by_page = [list(_rows_of_page(page, rng)) for page in rng.sample(pages, len(pages))]
    of_pages = (row for one_of_each in itertools.zip_longest(*by_page) for row in one_of_each if row is not None)
    pairs = zip(_rows_of_lessons(load_lessons(), rng), of_pages, strict=False)
    return itertools.islice(itertools.chain.from_iterable(pairs), min(num_rows, MAX_PRACTICE_ROWS))


def _rows_of_lessons(lessons: Sequence[Lesson], rng: random.Random) -> Iterator[dict[str, Any]]:
    shuffled = rng.sample(lessons, len(lessons))
    groups = [shuffled[start : start + _LESSONS_PER_PAGE] for start in range(0, len(shuffled), _LESSONS_PER_PAGE)]
    passages = ["\n".join(f"{lesson.topic}\n{lesson.whole}" for lesson in group) for group in groups]
    for at, group in enumerate(groups):
        asked = [pair for lesson in group for pair in lesson.pairs]
        rng.shuffle(asked)
        other = passages[(at + rng.randrange(1, len(passages))) % len(passages)]
        for start in range(0, len(asked), QUESTIONS_PER_ROW):
            both = rng.sample([passages[at], other], 2)
            yield _row(asked[start : start + QUESTIONS_PER_ROW], both, rng.choice(INSTRUCTIONS))


def _rows_of_page(page: Page, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield rows of two passages of a page that lie next to each other, and questions about both."""
    questions = rng.sample(page.questions, len(page.questions))
    pairs = rng.sample(range(len(page.passages) - 1), len(page.passages) - 1)
    while pairs:
        for first in list(pairs):
            asked = [each for each in questions if each.passage in (first, first + 1)][:QUESTIONS_PER_ROW]
            if not asked:
                pairs.remove(first)
                continue
            questions = [each for each in questions if each not in asked]
            passages = rng.sample(page.passages[first : first + 2], 2)
            yield _row(asked, passages, rng.choice(INSTRUCTIONS))


def _row(asked: Sequence[PageQuestion | LessonPair], passages: Sequence[str], instruction: str) -> dict[str, Any]:
    turns = []
    for index, each in enumerate(asked):
        prompt = each.question if index else ask_with_passages(each.question, passages, instruction)
        turns += [Message("user", prompt), Message("assistant", each.answer)]
    row = {
        "id": text_digest(part for turn in turns for part in turn.parts),
        "messages": [turn.to_turn() for turn in turns],
        "document": "",
        "document_digest": "",
        "passage": "",
        "provenance": Provenance("practice", "", f"lessons-{LESSONS_VERSION} pages-{_PAGES_VERSION}", "").to_json(),
        "covers": [],
    }
    return {**dict.fromkeys(ROW_SCHEMA.names), **row}
