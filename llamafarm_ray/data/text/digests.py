"""Digests of texts, exact and up to case, spacing and punctuation."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

__all__ = ["normal_form", "text_digest"]


def normal_form(text: str) -> str:
    """Return ``text`` without case, spacing and punctuation: equal for texts that repeat each other."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"[^\W_]+(?:[.,:][^\W_]+)*|[$\u20ac\u00a3%+-](?=\d)", folded))


def text_digest(parts: Iterable[str]) -> str:
    """Return 64 hexadecimal digits of SHA-256 over ``parts``; ``["ab"]`` and ``["a", "b"]`` differ."""
    state = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        state.update(len(encoded).to_bytes(8, "big"))
        state.update(encoded)
    return state.hexdigest()
