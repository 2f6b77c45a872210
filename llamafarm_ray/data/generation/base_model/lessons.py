"""Lessons: short texts with the questions that a careful reader asks about them, and the form that a model reads.

A lesson and a text to write about have the same form, line by line::

    Topic: Gannet House museum, Opening hours
    Text: The museum stays open until eight on Thursdays.
    Question: How late is the museum open on Thursdays?

A model continues it by one line at a time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LESSONS_VERSION", "LESSON_LANGUAGES", "Lesson", "heading_lines", "load_lessons"]

LESSONS_VERSION = "2"
"""To be raised when the lessons or their form change, so that pairs written before are told apart."""

LESSON_LANGUAGES = ("en", "")
"""Languages that the lessons teach; a passage that is too short to tell is tried."""

_FILE = Path(__file__).with_name("lessons.jsonl")


@dataclass(frozen=True, slots=True)
class Lesson:
    """A text and its questions; none where nothing in the text is worth asking.

    Args:
        topic: title and headings above the text.
        before: the sentence before it, where it can't be understood alone; else empty.
        text: a sentence, list item or table row.
        questions: each names its subject, so that it can be understood without the text.
    """

    topic: str
    before: str
    text: str
    questions: tuple[str, ...]


def load_lessons() -> tuple[Lesson, ...]:
    """Return the lessons of this package. They are in English."""
    lessons = []
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        lessons.append(Lesson(record["topic"], record["before"], record["text"], tuple(record["questions"])))
    return tuple(lessons)


def heading_lines(topic: str, before: str, text: str) -> str:
    """Return the first two lines of the form."""
    return f"Topic: {topic}\nText: {f'{before} {text}' if before else text}\n"
