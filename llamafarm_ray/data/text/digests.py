"""Digests of texts, exact and up to case, spacing and punctuation."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from llamafarm_ray.text.scripts import MARKS

__all__ = ["normal_form", "text_digest"]


_SIGN = r"[$\u20ac\u00a3%+-](?=\d)"
_ASCII = re.compile(rf"[^\W_]+(?:[.,:][^\W_]+)*|{_SIGN}")
_LETTERS = rf"[^\W_](?:[^\W_]|[{MARKS}])*"
_ANY = re.compile(rf"{_LETTERS}(?:[.,:]{_LETTERS})*|{_SIGN}")


def normal_form(text: str) -> str:
    """Return ``text`` without case, spacing and punctuation: equal for texts that repeat each other.

    Vowel signs, tones and accents stay with their letters.
    """
    if text.isascii():
        return " ".join(_ASCII.findall(text.casefold()))
    return " ".join(_ANY.findall(unicodedata.normalize("NFKC", text).casefold()))


def text_digest(parts: Iterable[str]) -> str:
    """Return 64 hexadecimal digits of SHA-256 over ``parts``; ``["ab"]`` and ``["a", "b"]`` differ."""
    state = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        state.update(len(encoded).to_bytes(8, "big"))
        state.update(encoded)
    return state.hexdigest()
