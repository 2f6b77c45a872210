"""Rows of practice: questions about invented pages, answered from them.

Questions that a small model wrote teach the facts of a document, and little about reading: half of them are not what
a reader would ask. The package has pages on many subjects with questions as careful readers ask them, in words of
their own and without naming the page. Rows of them teach to find the answer in two passages about one subject, as
retrieval brings them. The pages are invented, so that nothing else is learned from them.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafarm_ray.data.rows import ROW_SCHEMA, Message, Provenance
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.data.with_passages import INSTRUCTIONS, QUESTIONS_PER_ROW, ask_with_passages

__all__ = ["MAX_PRACTICE_ROWS", "Page", "PageQuestion", "load_pages", "practice_rows"]

MAX_PRACTICE_ROWS = 80
"""Most rows of practice in a dataset."""

_FILE = Path(__file__).with_name("practice.jsonl")
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
    """Yield rows with the columns of ``ROW_SCHEMA`` and ``covers``: first one of each page, then the next of each.

    Args:
        num_rows: as many as there are rows with passages of the dataset's own, so that both shape what is learned.
        seed: decides the order and which questions share a row.
    """
    rng = random.Random(seed)
    pages = load_pages()
    by_page = [list(_rows(page, rng)) for page in rng.sample(pages, len(pages))]
    rounds = itertools.zip_longest(*by_page)
    rows = (row for one_of_each in rounds for row in one_of_each if row is not None)
    return itertools.islice(rows, min(num_rows, MAX_PRACTICE_ROWS))


def _rows(page: Page, rng: random.Random) -> Iterator[dict[str, Any]]:
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


def _row(asked: Sequence[PageQuestion], passages: Sequence[str], instruction: str) -> dict[str, Any]:
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
        "provenance": Provenance("practice", "", f"pages-{_PAGES_VERSION}", "").to_json(),
        "covers": [],
    }
    return {**dict.fromkeys(ROW_SCHEMA.names), **row}
