"""Checks that a question and its answer can be understood away from their page."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llamafarm_ray.data.generation.rules.english import (
    COUNTLESS_NOUNS,
    FINITE_WORDS,
    HEADING_VERBS,
    IMPERATIVES,
    OPEN_ENDS,
    POINTING_ADJECTIVES,
    PREPOSITIONS,
    QUANTIFIERS,
    SUBJECT_BREAKERS,
)

__all__ = ["is_cut_off", "is_no_topic", "is_on_topic", "is_vague", "leans_on_context", "repeated_nouns"]

_PHRASE_ENDS = (PREPOSITIONS - {"like"}) | FINITE_WORDS | SUBJECT_BREAKERS | {"and", "the", "a", "an", "to"}
_MAX_PHRASE_WORDS = 4
_CONTRACTION = re.compile(r"n['\u2019]t$")
_INDEFINITE = re.compile(
    r"\b(?i:an?|this|each|every|any|another|these|those|several|multiple|many) ((?:[a-z-]+ ?){1,4})"
)
_DEFINITE = re.compile(r"\b(?:the|each|every|no|any) (?=(\S[^,;:()]*))", re.IGNORECASE)
_LEANING = re.compile(
    r"\b(?:this|these|those|such|here|following|former|latter|previous|aforementioned|therefore?|thus|hence|however|instead"
    r"|otherwise|likewise|similarly|as well|too|again|in turn|e\.g|for example|others?|another|we|us|let's|so far"
    r"|the above|a different (?:approach|way)|that (?:document|page|section|case|is why)"
    r"|the (?:first|second|third) (?:area|objective|approach|method|option|point|goal|problem|reason|part)"
    r"|barely|hardly|scarcely|both parts|and (?:it is|saying|they are)|the (?:inverse|opposite|reverse)"
    r"|(?:in|read) (?:section|chapter|appendix|table)"
    r" (?=[\dA-Z])"
    r"|(?:table|list|section|example|figure) (?:below|above)"
    r"|see (?:table|figure|section|chapter|appendix|also|above|below)"
    r"|(?:described|explained|mentioned|shown|listed|discussed|given|see)"
    r" (?:above|below|earlier|later|in|there|how))\b",
    re.IGNORECASE,
)
_CONTINUING = re.compile(r"(?<!, )\b(?:then|also|still|already)\b", re.IGNORECASE)
_POINTING_START = re.compile(
    r"(?:this|these|those|that|it|its|they|their|he|she|we|our|here|there|such|both|now|so|but|and|or|then|also|as|if"
    r"|however|therefore|thus|hence|instead|otherwise|before|after|when|while|once|sometimes|similarly|likewise|be|do"
    r"|another|finally|first|second|next|later|again|in (?:this|these|that|such)|for (?:this|example)|by default|don't"
    r"|additionally|moreover|furthermore|of course|see|note|please"
    r"|the (?:following|above|below|previous|next|first|second|last|only|other|same|equivalent|latter|former))\b",
    re.IGNORECASE,
)
_STOPS = (".", "!", "?")
_STEM_LETTERS = 5
_MIN_WORD_LETTERS = 3
_MAX_TERM_WORDS = 3


def repeated_nouns(sentences: Iterable[str]) -> frozenset[str]:
    """Return the words that a document uses for one thing of many: *pump* of "a pump", "each feed pump", "pumps"."""
    found: set[str] = set()
    words: set[str] = set()
    for sentence in sentences:
        words.update(re.findall(r"[a-z]{4,}", sentence))
        for match in _INDEFINITE.finditer(sentence):
            phrase = _phrase(match[1])
            found.update(phrase[-1:])
    plurals = {word.removesuffix("s") for word in words if word.endswith("s") and word.removesuffix("s") in words}
    return frozenset(word for word in found | plurals if len(word) >= _MIN_WORD_LETTERS)


def is_vague(text: str, repeated: frozenset[str], *, strict: bool) -> bool:
    """Return True if ``text`` mentions "the ..." and does not identify it.

    Args:
        text: a question, or a part of one.
        repeated: see :func:`repeated_nouns`.
        strict: refuse what only its place tells apart too, as "the first number".
    """
    for match in _DEFINITE.finditer(text):
        phrase = _phrase(match[1])
        if strict and phrase and phrase[0].partition("-")[0] in POINTING_ADJECTIVES:
            return True
        if any(not (word.isalpha() and word.islower()) for word in phrase):
            continue  # a name, or an identifier
        is_noun = len(phrase[1:]) == 0 or not phrase[-1].endswith("s")  # not "the row consists of"
        if phrase and is_noun and match[1].split()[len(phrase) :][:1] == ["of"]:
            continue  # what follows tells which
        stems = {word.removesuffix("s") for word in phrase}
        if not phrase or not (COUNTLESS_NOUNS | repeated).isdisjoint(stems.union(phrase)):
            return True
    return False


def _phrase(text: str) -> list[str]:
    words: list[str] = []
    for word in text.rstrip(".?!").split()[:_MAX_PHRASE_WORDS]:
        if word.lower() in _PHRASE_ENDS or _CONTRACTION.search(word):
            break
        words.append(word)
    return words


def leans_on_context(sentence: str, *, strict: bool) -> bool:
    """Return True if a sentence points at what stands before or after it; ``strict`` counts *also* and *then* too."""
    return bool(_LEANING.search(sentence)) or (strict and bool(_CONTINUING.search(sentence)))


def is_cut_off(sentence: str, *, before_code: bool) -> bool:
    """Return True for a sentence whose end is missing, as that is code, or stands in another block."""
    if sentence.rstrip("\"'\u201d\u2019)] ").endswith(_STOPS):
        return False
    return before_code or sentence.rsplit(maxsplit=1)[-1].lower() in OPEN_ENDS


def is_on_topic(topic: str, answer: str) -> bool:
    """Return True if ``answer`` holds all words of ``topic`` that have a meaning, and begins without pointing back."""
    words = [word for word in re.findall(r"\w+", topic.lower()) if word not in _PHRASE_ENDS and word not in QUANTIFIERS]
    if (
        _POINTING_START.match(answer)
        or not (answer[0].isalnum() or answer[0] in "\"'\u201c")
        or (answer[0].islower() and answer.split(maxsplit=1)[0].lower() not in words)
    ):
        return False
    if len(words) > _MAX_TERM_WORDS and answer.lower().startswith(topic.lower()):
        return False  # the heading is a statement of its own
    stems = {_stem(word) for word in re.findall(r"\w+", answer.lower())}
    return bool(words) and all(_stem(word) in stems for word in words)


def is_no_topic(heading: str) -> bool:
    """Return True for a heading that names nothing to ask about: "Install the pump", "On deck", "Mounting"."""
    first, _, rest = heading.lower().partition(" ")
    if first in HEADING_VERBS and " " in rest:
        return True
    last = heading.lower().rsplit(" ", 1)[-1]
    if (
        first in PREPOSITIONS
        or first in FINITE_WORDS
        or first in {"more", "when", "other", "some"}
        or (not rest and first.endswith("ing"))
    ):
        return True
    if last in COUNTLESS_NOUNS and first not in {"the", "a", "an"} and heading.replace(" ", "").isalpha():
        return True  # "mail server" lacks its article
    return first in IMPERATIVES and rest.split(" ")[0] in {"the", "a", "an", "your", "our", "it", "all", "and"}


def _stem(word: str) -> str:
    return word.removesuffix("s").removesuffix("ing")[:_STEM_LETTERS]
