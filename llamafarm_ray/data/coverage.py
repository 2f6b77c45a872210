"""Coverage: the facts of a document (sentences, table rows, list items) that a pair teaches."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from llamafarm_ray.data.text import normal_words, sentences_of

__all__ = ["Coverage", "covered_facts", "fact_number", "facts_of"]

_MIN_FACT_WORDS = 3
_WHOLE = 0.9
"""A fact is taught as a whole by an answer that holds this share of its words; rows of a table share many."""
_FACTS_PER_PASSAGE = 1 << 20
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at to for from by with and or is are was were be been it its this that these those as "
        "has have had do does did can may must will would should what when where who which how why many much",
    )
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Facts with at least one kept pair.

    Args:
        num_covered: facts that a kept pair teaches.
        documents: both numbers by path, ``[covered, facts]``.
    """

    num_facts: int
    num_covered: int
    documents: dict[str, list[int]]

    @property
    def share(self) -> float:
        """Share of the facts that are covered, 0 to 1."""
        return self.num_covered / self.num_facts if self.num_facts else 0.0


def facts_of(text: str) -> list[str]:
    """Return the facts of a passage, in order: its sentences, table rows and list items of three words or more."""
    return [sentence for sentence in sentences_of(text) if len(normal_words(sentence)) >= _MIN_FACT_WORDS]


def fact_number(passage_index: int, fact_index: int) -> int:
    """Return the number of a fact in its document."""
    return passage_index * _FACTS_PER_PASSAGE + fact_index


def covered_facts(facts: Iterable[str], question: str, answer: str) -> list[int]:
    """Return the indices of the facts of a passage that a pair teaches.

    These are the facts of which the answer holds most words. An answer that holds no fact as a whole, a short one,
    teaches the one fact that shares the most words with it, and among equals with the question.
    """
    in_answer, in_question = _words(answer), _words(question)
    words = [_words(fact) for fact in facts]
    whole = [index for index, fact in enumerate(words) if fact and len(fact & in_answer) >= _WHOLE * len(fact)]
    if whole or not words:
        return whole
    best = max(range(len(words)), key=lambda i: (len(words[i] & in_answer), len(words[i] & in_question), -i))
    return [best] if words[best] & in_answer else []


def _words(text: str) -> frozenset[str]:
    return frozenset(normal_words(text)) - _FUNCTION_WORDS
