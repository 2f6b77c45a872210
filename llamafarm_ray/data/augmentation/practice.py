"""Rows of practice: questions about invented pages, answered from them.

Questions that a small model wrote teach the facts of a document, and little about reading: half of them are not what
a reader would ask. The package has pages on many subjects with questions as careful readers ask them, in words of
their own and without naming the page. Rows of them teach to find the answer in excerpts about one subject, as
retrieval brings them, and to give it in the page's own words. The pages are invented, so that nothing else is learned
from them.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.data.augmentation.with_passages import ReadingQuestion, conversations
from llamafarm_ray.data.rows import ROW_SCHEMA, Message, Provenance
from llamafarm_ray.data.search.excerpts import SentenceIndex
from llamafarm_ray.data.text import text_digest

__all__ = ["MAX_PRACTICE_ROWS", "PRACTICE_SHARE", "Page", "PageQuestion", "load_pages", "practice_rows"]

PRACTICE_SHARE = 1
"""Rows of practice for each row with passages of the dataset's own. Few teach to quote the sentence that answers."""
MAX_PRACTICE_ROWS = 30
"""Most rows of practice in a dataset."""

_FILE = Path(__file__).with_name("practice.jsonl")
_PAGES_VERSION = "1"
"""Version of the pages. Raise it with each change, so that older rows differ."""


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


def practice_rows(num_rows: int, *, seed: int) -> Iterator[dict[str, object]]:
    """Yield rows with the columns of ``ROW_SCHEMA`` and ``covers``, one row of each page first, then the next of each.

    Args:
        num_rows: most rows; there are never more than ``MAX_PRACTICE_ROWS``.
        seed: decides the order and which questions share a row.
    """
    rng = random.Random(seed)
    pages = load_pages()
    by_page = [_rows_of_page(page, rng) for page in rng.sample(pages, len(pages))]
    in_turn = (row for one_of_each in itertools.zip_longest(*by_page) for row in one_of_each if row is not None)
    return itertools.islice(in_turn, min(num_rows, MAX_PRACTICE_ROWS))


def _rows_of_page(page: Page, rng: random.Random) -> Iterator[dict[str, object]]:
    index = SentenceIndex(page.passages)
    asked = []
    for each in rng.sample(page.questions, len(page.questions)):
        sentence = index.supporting(each.answer, each.passage)
        asked.append(ReadingQuestion(each.question, index.sentences[sentence], sentence))
    for _, turns in conversations(index, asked, rng):
        yield _row(turns)


def _row(turns: Sequence[Message]) -> dict[str, object]:
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
