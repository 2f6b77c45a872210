"""Plain-text helpers that several steps share: decoding, sentences, words and the digest of what a text says."""

from __future__ import annotations

import codecs
import hashlib
import re
import unicodedata
from collections.abc import Iterable

__all__ = ["decode_text", "normal_form", "num_words", "sentences_of", "text_digest", "text_encoding"]

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
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


def decode_text(data: bytes) -> str | None:
    """The text of ``data``: UTF-8, or UTF-16/32 told by a byte order mark or by the zero bytes; None if it is none."""
    try:
        text = data.decode(text_encoding(data))
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text.removeprefix("\ufeff")


def text_encoding(data: bytes) -> str:
    """Return the encoding of a text by its first bytes: UTF-16 or UTF-32 where they show it, else UTF-8."""
    marked = next((name for mark, name in _BOMS if data.startswith(mark)), None)
    return marked or _utf16_without_mark(data) or "utf-8"


def _utf16_without_mark(data: bytes) -> str | None:
    """Mostly Latin text in UTF-16 has a zero in every second byte; text in UTF-8 has none at all."""
    sample = data[:4096]
    if len(sample) < 4 or len(data) % 2:  # noqa: PLR2004  two characters
        return None
    zeros_even, zeros_odd = sample[::2].count(0), sample[1::2].count(0)
    if zeros_odd > len(sample) // 5 and not zeros_even:
        return "utf-16-le"
    if zeros_even > len(sample) // 5 and not zeros_odd:
        return "utf-16-be"
    return None


def sentences_of(text: str) -> list[str]:
    """The sentences of ``text``, in order, whitespace collapsed; a line end always ends a sentence."""
    found: list[str] = []
    for line in text.splitlines():
        start = 0
        for boundary in _BOUNDARY.finditer(line):
            head = line[max(start, boundary.start() - _LONGEST_WORD) : boundary.start()]
            if not _ends_in_abbreviation(head, line[boundary.end()]):
                found.append(_collapse(line[start : boundary.end()]))
                start = boundary.end()
        found.append(_collapse(line[start:]))
    return [sentence for sentence in found if sentence]


def _ends_in_abbreviation(head: str, following: str) -> bool:
    """Whether the full stop at the end of ``head`` belongs to its last word; ``following`` is the next character."""
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


def num_words(text: str) -> int:
    """How many whitespace-separated words ``text`` has."""
    return len(text.split())


def normal_form(text: str) -> str:
    """What ``text`` says, without case, spacing and punctuation: equal for texts that repeat each other."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"[^\W_]+(?:[.,:][^\W_]+)*|[$\u20ac\u00a3%+-](?=\d)", folded))


def text_digest(parts: Iterable[str]) -> str:
    """64 hexadecimal digits of SHA-256 over ``parts``; their borders count, ``["ab"]`` differs from ``["a", "b"]``."""
    state = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        state.update(len(encoded).to_bytes(8, "big"))
        state.update(encoded)
    return state.hexdigest()
