"""Candidate facts of a text, and the checks of what a model wrote about one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llamafarm_ray.data.text import normal_form, sentences_of
from llamafarm_ray.text.support import support, unsupported_parts

__all__ = ["Text", "answer_fault", "asked_words", "candidate_facts", "question_fault", "same_fact", "texts_of"]

_POINTS_BACK = re.compile(
    r"(?:it|he|she|they|this|that|these|those|then|there|her|his|its|their|both|after that|because of this)\b",
    re.IGNORECASE,
)
_SMALL_WORDS = frozenset(
    re.findall(r"\w+", "a an the of in on at to for from by with is are was were be do does did its it")
)
_NUMBER = re.compile(r"[$\u20ac\u00a3]?\d(?:[\d.,:]*\d)?%?")
_MIN_WORDS = 3
_MAX_FACTS = 5
_MIN_ANSWER_SUPPORT = 0.99
_MIN_SHARE, _MIN_SHARED = 0.5, 2
_ROW_MARK = " \u2013 "


@dataclass(frozen=True, slots=True)
class Text:
    """A sentence, list item or table row to write about.

    Args:
        topic: title and headings, without repetition.
        before: the sentence before it, if the text points back to one; else empty.
        text: the text.
    """

    topic: str
    before: str
    text: str

    @property
    def context(self) -> str:
        """Everything that an answer may be supported by."""
        return f"{self.topic}\n{self.before}\n{self.text}"

    @property
    def stands_alone(self) -> bool:
        """True if the text itself can be an answer: a sentence that points at nothing outside of it."""
        return not _POINTS_BACK.match(self.text) and _ROW_MARK not in self.text and self.text.endswith((".", "!"))


def texts_of(title: str, headings: Iterable[str], passage: str) -> list[Text]:
    """Return the texts of a passage that have at least three words."""
    topic = ", ".join(dict.fromkeys(part for part in (title, *headings) if part))
    sentences = sentences_of(passage)
    return [
        Text(topic, sentences[at - 1] if at and _POINTS_BACK.match(text) else "", text)
        for at, text in enumerate(sentences)
        if len(normal_form(text).split()) >= _MIN_WORDS
    ]


def candidate_facts(text: str, proposed: Iterable[str]) -> list[str]:
    """Return up to five parts of ``text`` that a question may be about: those a model proposed, then its numbers.

    Args:
        text: the text.
        proposed: the best first. One that doesn't stand in the text word for word is left out, and so is one that
            overlaps with a better one.
    """
    facts: list[str] = []
    for fact in (*proposed, *(match.group() for match in _NUMBER.finditer(text))):
        fact = fact.strip(" .;,")  # noqa: PLW2901 - the bare words
        fits = bool(fact) and _stands_in(fact, text) and normal_form(fact) != normal_form(text)
        if fits and len(facts) < _MAX_FACTS and not any(fact in other or other in fact for other in facts):
            facts.append(fact)
    return facts


def _stands_in(fact: str, text: str) -> bool:
    """Return True if ``fact`` is a part of ``text`` that begins and ends with words and whole numbers."""
    return re.search(rf"(?<!\w)(?<!\d[.,:]){re.escape(fact)}(?!\w|[.,:]\d)", text) is not None


def question_fault(question: str, fact: str, text: Text) -> str:
    """Return the reason why a question can't be used, empty if it can."""
    said = normal_form(question)
    if not question.endswith("?") or len(said.split()) < _MIN_WORDS:
        return "question is no question"
    if normal_form(fact) and f" {normal_form(fact)} " in f" {said} ":
        return "question holds its answer"
    foreign = unsupported_parts(question, text.context)
    if any(part[0].isdigit() or part in _names(question) for part in foreign):
        return "question has a name or number that the text lacks"
    # Other words may be the asker's own: "How much does a grown-up pay?"
    share = support(question, text.context)
    num_shared = len(foreign) * share / (1.0 - share) if share < 1.0 else _MIN_SHARED
    if share < _MIN_SHARE and round(num_shared) < _MIN_SHARED:
        return "question is about something else"
    return ""


def asked_words(question: str) -> frozenset[str]:
    """Return the words of a question that tell it from others, in no order: "Who" counts, "of the" does not."""
    return frozenset(normal_form(question).split()) - _SMALL_WORDS


def same_fact(one: str, other: str) -> bool:
    """Return True if one holds the other's words."""
    first, second = normal_form(one), normal_form(other)
    return bool(first and second) and (f" {first} " in f" {second} " or f" {second} " in f" {first} ")


def answer_fault(answer: str, fact: str, text: Text) -> str:
    """Return the reason why an answer can't be used, empty if it can."""
    if f" {normal_form(fact)} " not in f" {normal_form(answer)} ":
        return "answer lacks the fact"
    if support(answer, text.context) < _MIN_ANSWER_SUPPORT:
        return "answer says more than the text"
    return ""


def _names(question: str) -> Iterator[str]:
    words = re.findall(r"[^\W_]+", question)
    return (word.casefold() for word in words[1:] if word[0].isupper() and word != "I")
