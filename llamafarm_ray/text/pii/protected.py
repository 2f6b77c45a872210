"""Codes that only look like personal data: GUIDs, hashes, versions, ISBNs, dates and times."""

from __future__ import annotations

import re

__all__ = ["Protected"]

_PATTERN = re.compile(
    r"""
      \b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b                       # GUID
    | \b(?:sha\d+|md5|sha\d+-?\d*)[:-][0-9A-Za-z+/=]{16,}                             # digest with its name
    | (?<![0-9A-Za-z])(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{12,}(?![0-9A-Za-z])   # lower-case hex
    | (?<![0-9A-Za-z])(?=[0-9A-F]*[A-F])(?=[0-9A-F]*\d)[0-9A-F]{24,}(?![0-9A-Za-z])   # upper-case hex, long
    | \b0[xX][0-9a-fA-F]+\b
    | (?<![0-9A-Fa-f])(?:[0-9a-fA-F]{2}[:-]){5,}[0-9a-fA-F]{2}(?![0-9A-Fa-f])         # MAC address, fingerprint
    | \bISBN(?:-1[03])?:?\s?[\dXx -]{10,17}
    | (?<!\d)97[89](?:[ -]?\d){10}(?!\d)
    | \b(?:v|ver\.?|version|release)\s?\d+(?:\.\d+)+[\w.+-]*
    | \b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?\b   # ISO date and time
    | \b\d{8}T\d{6}Z?\b
    """,
    re.VERBOSE | re.ASCII,
)


class Protected:
    """Spans of a text in which nothing is personal data."""

    def __init__(self, text: str) -> None:
        self._spans = [match.span() for match in _PATTERN.finditer(text)]

    def covers(self, start: int, end: int) -> bool:
        """Return True if ``start`` to ``end`` overlaps a protected span."""
        return any(start < last and first < end for first, last in self._spans)
