"""Sentences of a text: English by rules of our own, other languages by sentencex or by their scripts' own marks."""

from __future__ import annotations

import re

from llamafarm_ray.text.scripts import ARABIC, CJK, CJK_MARKS, SOUTH_EAST_ASIAN

__all__ = ["sentence_separator", "sentences_of"]

_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        "mr mrs ms dr prof st sr jr vs etc e.g i.e cf approx dept est fig inc ltd co corp vol pp ext tel a.m p.m "
        "jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun u.s u.k",
    )
)
_ABBREVIATIONS_BEFORE_NUMBER = frozenset({"no", "nos", "art", "sec", "ch", "p", "max", "min"})
_BOUNDARY = re.compile(r"(?<=[.!?])[\"'\u201d\u2019)\]]*\s+(?=[\"'\u201c\u2018(\[]?[A-Z0-9\u00c0-\u00de])")
_LONGEST_WORD = 40
_LAST_WORD = re.compile(r"([^\s(\[\"']+)\.$")

_OTHER_SCRIPT = re.compile(f"[{CJK}{SOUTH_EAST_ASIAN}{ARABIC}\u0900-\u0dff\u1200-\u137f\u0530-\u058f]")
_OTHER_SCRIPT_SHARE = 6  # a line with a foreign word in it stays what it is
_CLOSING = "\"'\u201d\u2019\u00bb\u300d\u300f\uff09)\\]\u3011\u300b"
_MARK_END = re.compile(
    # Full width marks need no space; a quotation that goes on ("...?" he asked) stays whole.
    f"[\u3002\uff01\uff1f\uff61]+[{_CLOSING}]*\\s*(?![\u3068\u3001\uff0c\u7684{_CLOSING}]|\u3063\u3066)"
    f"|(?<=[{CJK}])[!?]+[{_CLOSING}]*\\s*(?![\u3068\u3001\uff0c{_CLOSING}]|\u3063\u3066)"
    # Danda, Arabic, Ethiopic, Burmese, Khmer and Armenian marks; then the marks of Latin script, before a space.
    f"|[\u0964\u0965\u061f\u06d4\u1362\u1367\u104b\u17d4\u0589]+[{_CLOSING}]*\\s*"
    f"|(?<!\\d)[.!?\u2026]+[{_CLOSING}]*\\s+|(?<=\\d)[.!?]+\\s+(?=[^\\W\\d])"
    # Thai and its neighbors write a space between sentences, and between phrases.
    f"|(?<=[{SOUTH_EAST_ASIAN}\u0e31\u0e34-\u0e3a\u0e47-\u0e4e])\\s+(?=[{SOUTH_EAST_ASIAN}])"
)
_FULL_WIDTH = re.compile(f"[{CJK}{CJK_MARKS}]")


def sentences_of(text: str, language: str = "") -> list[str]:
    """Return the sentences of ``text``, in order, whitespace collapsed; a line end always ends a sentence.

    Chinese, Japanese, Thai, Arabic, the scripts of India and others are split at their own marks, whatever
    ``language`` says.

    Args:
        language: ISO 639-1 code of a language in Latin, Greek or Cyrillic script; by default English.
    """
    found: list[str] = []
    for line in text.splitlines():
        if not line.isascii() and _OTHER_SCRIPT_SHARE * len(_OTHER_SCRIPT.findall(line)) > len(line):
            found += _by_marks(line)
        elif language in {"", "en"}:
            found += _english(line)
        else:
            found += _by_language(line, language)
    return [sentence for sentence in map(_collapse, found) if sentence]


def sentence_separator(before: str, after: str) -> str:
    """Return the space between two sentences: none between Chinese or Japanese ones."""
    return "" if _FULL_WIDTH.match(before[-1:]) and _FULL_WIDTH.match(after[:1]) else " "


def _english(line: str) -> list[str]:
    found, start = [], 0
    for boundary in _BOUNDARY.finditer(line):
        head = line[max(start, boundary.start() - _LONGEST_WORD) : boundary.start()]
        if not _ends_in_abbreviation(head, line[boundary.end()]):
            found.append(line[start : boundary.end()])
            start = boundary.end()
    return [*found, line[start:]]


def _by_marks(line: str) -> list[str]:
    found, start = [], 0
    for end in _MARK_END.finditer(line):
        found.append(line[start : end.end()])
        start = end.end()
    return [*found, line[start:]]


def _by_language(line: str, language: str) -> list[str]:
    import sentencex  # type: ignore[import-untyped]  # most builds are English alone

    found: list[str] = sentencex.segment(language, line)
    return found


def _ends_in_abbreviation(head: str, following: str) -> bool:
    """Return True if the full stop at the end of ``head`` belongs to its last word, before ``following``."""
    match = _LAST_WORD.search(head)
    if match is None:
        return False
    word = match[1].lower()
    if word in _ABBREVIATIONS_BEFORE_NUMBER:
        return following.isdigit()
    # "5 p.m. The doors ..." does end a sentence; "J. Smith" and "Dr. Smith" do not.
    if word in {"a.m", "p.m", "etc"}:
        return not following.isupper()
    return word in _ABBREVIATIONS or (len(word) == 1 and match[1].isupper())


def _collapse(text: str) -> str:
    return " ".join(text.split())
