"""The texts to ask about, and the checks of a question."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llamafarm_ray.data.augmentation.keyword_prompts import QUESTION_WORDS
from llamafarm_ray.data.generation.base_model.languages import language_rules
from llamafarm_ray.data.generation.base_model.other_languages import fault_elsewhere
from llamafarm_ray.data.text import normal_words, num_words, sentence_separator, sentences_of
from llamafarm_ray.text.support import support, unsupported_parts

__all__ = ["Text", "asked_words", "question_fault", "sentences_in_context", "texts_of", "without_topic"]

_SMALL_WORDS = frozenset(
    re.findall(r"\w+", "a an the of in on at to for from by with is are was were be do does did its it")
)
_AT_TOPIC = re.compile(r"\b(?:at|in|on|of|for|to|with|from|near|inside)(?: the)? (?P<names>[^?]+)\?$", re.IGNORECASE)
_DETAIL = re.compile(r"[^\s:.;\u2013]+(?: [^\s:.;\u2013]+){0,2}: [^:;]{0,50}[^:;.!?]")
_MIN_WORDS = 3
_MIN_SHARE, _MIN_SHARED = 0.5, 2
_MAX_ANSWER_WORDS = 60


@dataclass(frozen=True, slots=True)
class Text:
    """A sentence, list item or table row to write about.

    Args:
        topic: title and headings, without repetition.
        before: the sentence before it, if the text points back to one; else empty.
        heading: the nearest heading above it; empty if there is none.
    """

    topic: str
    before: str
    text: str
    heading: str = ""

    @property
    def context(self) -> str:
        """Everything that a question may take its words from."""
        return f"{self.topic}\n{self.before}\n{self.text}"

    @property
    def answer(self) -> str:
        """The text, after the sentence that it points back to where both are short.

        A short detail such as "Distance: 7 miles" comes after its heading, which says of what.
        """
        if self.heading and _DETAIL.fullmatch(self.text):
            return f"{self.heading} \u2013 {self.text}"
        if not self.before:
            return self.text
        both = f"{self.before}{sentence_separator(self.before, self.text)}{self.text}"
        return both if num_words(both) <= _MAX_ANSWER_WORDS else self.text


def texts_of(title: str, headings: Sequence[str], passage: str, language: str = "en") -> list[Text]:
    """Return the texts of a passage that have at least three words.

    Args:
        language: ISO 639-1 code.
    """
    points_back = language_rules(language).points_back
    topic = ", ".join(dict.fromkeys(part for part in (title, *headings) if part))
    heading = next((part for part in reversed(tuple(headings)) if part), "")
    sentences = sentences_of(passage, language)
    return [
        Text(topic, sentences[at - 1] if at and points_back and points_back.match(text) else "", text, heading)
        for at, text in enumerate(sentences)
        if len(normal_words(text)) >= _MIN_WORDS
    ]


def sentences_in_context(heading: str, sentences: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return each sentence of a passage with the heading line above it and the sentence that it points back to.

    Args:
        sentences: all sentences of one passage, in order.
    """
    before = {text.text: text.before for text in texts_of("", (heading,), "\n".join(sentences))}
    return [(heading, before.get(sentence, ""), sentence) for sentence in sentences]


def question_fault(question: str, text: Text, language: str = "en") -> str:
    """Return the reason why a question can't be used, empty if it can.

    Args:
        language: ISO 639-1 code of the text's language.
    """
    rules = language_rules(language)
    if not rules.is_taught:
        body = f"{text.before}\n{text.text}"
        return fault_elsewhere(question, topic=text.topic, body=body, rules=rules)
    if not question.endswith(("?", "\uff1f")) or len(normal_words(question)) < _MIN_WORDS:
        return "question is no question"
    foreign = unsupported_parts(question, text.context)
    if any(part[0].isdigit() or part in _names(question) for part in foreign):
        return "question has a name or number that the text lacks"
    # Other words may be the asker's own: "How much does a grown-up pay?"
    share = support(question, text.context)
    num_shared = len(foreign) * share / (1.0 - share) if share < 1.0 else _MIN_SHARED
    if share < _MIN_SHARE and round(num_shared) < _MIN_SHARED:
        return "question is about something else"
    words = set(unsupported_parts(question, "")) - (QUESTION_WORDS | rules.stop_words)
    words = words.intersection(unsupported_parts(question, text.topic)) or words
    if not words - set(unsupported_parts(question, f"{text.before}\n{text.text}")):
        return "question is about the heading"
    return ""


def without_topic(question: str, topic: str) -> str:
    """Return a question without the name of its document or section at the end, as readers of that page ask.

    "How much is a locker at the Mill?" becomes "How much is a locker?". It stays as it is where nothing is left to ask.
    """
    names = set(normal_words(topic))
    for found in _AT_TOPIC.finditer(question):
        short = question[: found.start()].rstrip()
        if set(normal_words(found["names"])) <= names and len(normal_words(short)) >= _MIN_WORDS:
            return f"{short}?"
    return question


def asked_words(question: str) -> frozenset[str]:
    """Return the words of a question that tell it from others, in no order: "Who" counts, "of the" does not."""
    return frozenset(normal_words(question)) - _SMALL_WORDS


def _names(question: str) -> Iterator[str]:
    words = re.findall(r"[^\W_]+", question)
    return (word.casefold() for word in words[1:] if word[0].isupper() and word != "I")
