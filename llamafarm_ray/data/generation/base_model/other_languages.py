"""Check a question in another language than English, by its language, names, numbers and words."""

from __future__ import annotations

import re

from llamafarm_ray.data.generation.base_model.languages import Language
from llamafarm_ray.data.text import language_name, language_of, normal_words
from llamafarm_ray.text.scripts import HAN, UNSPACED_BLOCKS
from llamafarm_ray.text.support import unsupported_parts

__all__ = ["OTHER_LANGUAGE", "fault_elsewhere"]

OTHER_LANGUAGE = "question is in"
"""Begins the reason to drop a question in another language than its text's."""

_RUN = re.compile(f"[{UNSPACED_BLOCKS}]+")
_HAN = re.compile(f"[{HAN}]")
_HIRAGANA = re.compile("[\u3041-\u3096]")
_ASKING = frozenset("的是有在多少什么吗几谁哪为了何誰幾")
_MIN_WORDS = 3
_MIN_SHARE, _MIN_SHARED = 0.5, 2


def fault_elsewhere(question: str, *, topic: str, body: str, rules: Language) -> str:
    """Return the reason why a question can't be used, empty if it can.

    Args:
        topic: title and headings of its text.
        body: the text, after the sentence that it points back to.
    """
    if (rules.marks and not question.endswith(rules.marks)) or len(normal_words(question)) < _MIN_WORDS:
        return "question is no question"
    found = language_of(question, rules.code)
    if found != rules.code:
        return f"{OTHER_LANGUAGE} {language_name(found)}, not in {language_name(rules.code)}"
    context = f"{topic}\n{body}"
    names = set(_capitals(question)) if rules.capitals_are_names else set()
    if any(part[0].isdigit() or part in names for part in unsupported_parts(question, context)):
        return "question has a name or number that the text lacks"
    known = _units(question, rules) - _missing(question, context, rules)
    if len(known) < min(_MIN_SHARED, _MIN_SHARE * len(_units(question, rules))):
        return "question is about something else"
    asked = _missing(question, topic, rules) or _units(question, rules)
    return "" if asked - _missing(question, body, rules) else "question is about the heading"


def _units(question: str, rules: Language) -> set[str]:
    """Return the content words of a question; pairs and single characters in scripts without spaces."""
    return _missing(question, "", rules)


def _missing(question: str, text: str, rules: Language) -> set[str]:
    """Return the units of a question that a text lacks."""
    words = set(unsupported_parts(question, text)) - rules.stop_words
    return words | (_pairs(question) - _pairs(text)) | (_characters(question) - _characters(text))


def _pairs(text: str) -> set[str]:
    """Return the pairs of neighboring characters in scripts without spaces; hiragana, which is grammar, left out."""
    pairs = {run[at : at + 2] for run in _RUN.findall(text) for at in range(len(run) - 1)}
    return {pair for pair in pairs if not _HIRAGANA.search(pair)}


def _characters(text: str) -> set[str]:
    """Return the Chinese characters of a text that have a meaning of their own in a question."""
    return set(_HAN.findall(text)) - _ASKING


def _capitals(question: str) -> list[str]:
    words = re.findall(r"[^\W_]+", question)
    return [word.casefold() for word in words[1:] if word[0].isupper()]
