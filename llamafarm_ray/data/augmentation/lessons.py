"""Lessons: short invented texts with the questions that a careful reader asks about them, and the answers.

A base model learns from them to ask questions. It reads a lesson, and a text to write about, in the same form, line by
line::

    Topic: Gannet House museum, Opening hours
    Text: The museum stays open until eight on Thursdays.
    Question: How late is the museum open on Thursdays?

A model continues it by one line at a time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LESSONS_VERSION", "LESSON_LANGUAGES", "Lesson", "LessonPair", "heading_lines", "load_lessons"]

LESSONS_VERSION = "2"
"""Version of the lessons and their form. Raise it with each change, so that older pairs differ."""

LESSON_LANGUAGES = ("en", "")
"""Languages that the lessons teach; a passage that is too short to tell is tried."""

_FILE = Path(__file__).with_name("lessons.jsonl")


@dataclass(frozen=True, slots=True)
class LessonPair:
    """A question that names its subject, so that it can be understood without the text, and its answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """A text with questions and answers; none where nothing in the text is worth asking.

    Args:
        topic: title and headings above the text.
        before: the sentence before it, where it can't be understood alone; else empty.
        text: a sentence, list item or table row.
    """

    topic: str
    before: str
    text: str
    pairs: tuple[LessonPair, ...]

    @property
    def questions(self) -> list[str]:
        """The questions of its pairs."""
        return [pair.question for pair in self.pairs]


def load_lessons() -> tuple[Lesson, ...]:
    """Return the lessons of this package. They are in English."""
    lessons = []
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        pairs = tuple(LessonPair(**pair) for pair in record["pairs"])
        lessons.append(Lesson(record["topic"], record["before"], record["text"], pairs))
    return tuple(lessons)


def heading_lines(topic: str, before: str, text: str) -> str:
    """Return the first two lines of the form."""
    return f"Topic: {topic}\nText: {f'{before} {text}' if before else text}\n"
