"""Character ranges of scripts, as the insides of regular expressions' character classes (Unicode's block names)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

__all__ = [
    "ARABIC",
    "CJK",
    "CJK_MARKS",
    "HAN",
    "KANA",
    "MARKS",
    "SOUTH_EAST_ASIAN",
    "THAI",
    "UNSPACED",
    "UNSPACED_BLOCKS",
]

HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3041-\u3096\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
ARABIC = "\u0620-\u064a\u066e-\u06d3\u06d5\u06ee-\u06ef\u06fa-\u06ff\u0750-\u077f\u08a0-\u08c9"

CJK = HAN + KANA
"""Chinese and Japanese, which put no space between words."""

CJK_MARKS = "\u3000-\u3002\u3008-\u3011\u3014-\u301f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff3d\uff5b-\uff65"
"""Punctuation of full width, which has its space in it."""

# Letters alone: a vowel or tone mark belongs to the letter before it.
THAI = "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46"
_LAO = "\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u0edc-\u0edf"
_MYANMAR = "\u1000-\u102a\u103f\u1050-\u1055"
_KHMER = "\u1780-\u17b3"
SOUTH_EAST_ASIAN = THAI + _LAO + _MYANMAR + _KHMER
"""Thai, Lao, Burmese and Khmer, which put spaces between phrases."""

UNSPACED = CJK + SOUTH_EAST_ASIAN
"""Letters of all scripts that put no space between words."""

UNSPACED_BLOCKS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Blocks of these scripts as a whole, vowel and tone marks included: for runs of text, not for counting."""


def _marks() -> Iterator[str]:
    """Yield the ranges of marks that belong to the letter before them."""
    start = 0
    for code in range(_FIRST_MARK, _AFTER_MARKS):
        is_mark = unicodedata.category(chr(code)) in {"Mn", "Mc"} and code not in _VARIATION_SELECTORS
        if is_mark and not start:
            start = code
        elif start and not is_mark:
            yield f"{chr(start)}-{chr(code - 1)}"
            start = 0


_FIRST_MARK, _AFTER_MARKS = 0x300, 0x1F000
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)

MARKS = "".join(_marks())
"""Vowel signs, tones and accents of all scripts, which tell words apart: Hindi, Thai and others write them as marks."""
