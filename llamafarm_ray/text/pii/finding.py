"""Findings: a span of text and the kind of personal data it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["KINDS", "Finding", "PiiKind", "has_context", "stands_alone"]

PiiKind = Literal["secret", "card", "national_id", "iban", "email", "phone", "ip"]

KINDS: tuple[PiiKind, ...] = get_args(PiiKind)

_CONTEXT_CHARS = 40


@dataclass(frozen=True, slots=True)
class Finding:
    """Personal data at ``text[start:end]``.

    Args:
        kind: one of ``KINDS``.
        start: index of its first character.
        end: index behind its last character.
    """

    kind: PiiKind
    start: int
    end: int


def stands_alone(text: str, start: int, end: int) -> bool:
    """Return True if ``text[start:end]`` is not a part of a longer code, path, version or decimal number."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    return not re.search(r"[\w@%/\\+~.-]$|\d[:=]$", before) and not re.match(r"[\w@%/\\~]|[-.:+=]\w", after)


def has_context(text: str, start: int, words: re.Pattern[str]) -> bool:
    """Return True if one of ``words`` stands shortly before ``start``."""
    return bool(words.search(text[max(0, start - _CONTEXT_CHARS) : start]))
