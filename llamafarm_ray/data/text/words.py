"""Words of a text in any script, their number, and pieces with a bounded number of words."""

from __future__ import annotations

import itertools
import re

from llamafarm_ray.data.text.digests import normal_form
from llamafarm_ray.text.scripts import UNSPACED
from llamafarm_ray.text.tokens import word_tokens

__all__ = ["cut_words", "normal_words", "num_words"]

_UNSPACED_LETTER = re.compile(f"[{UNSPACED}]")
_UNIT = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:[.,:'\u2019-][^\W{UNSPACED}]+)*")


def num_words(text: str) -> int:
    """Return the number of words of ``text``.

    Words are separated by whitespace. In scripts that have none between words each Chinese or Japanese character
    counts, and each Thai, Lao, Burmese or Khmer letter with its vowel and tone marks.
    """
    if text.isascii() or not _UNSPACED_LETTER.search(text):
        return len(text.split())
    return sum(1 for _ in _UNIT.finditer(text))


def normal_words(text: str) -> list[str]:
    """Return the words of a text's normal form, for comparing texts.

    In scripts that put no space between words each letter with its marks is one, see `num_words`.
    """
    form = normal_form(text)
    return word_tokens(form) if not form.isascii() and _UNSPACED_LETTER.search(form) else form.split()


def cut_words(text: str, limit: int) -> list[str]:
    """Cut ``text`` between words into pieces of at most ``limit`` words, see `num_words`."""
    if text.isascii() or not _UNSPACED_LETTER.search(text):
        words = text.split()
        return [" ".join(words[start : start + limit]) for start in range(0, len(words), limit)]
    starts = [unit.start() for unit in _UNIT.finditer(text)][limit::limit]
    borders = [0, *starts, len(text)]
    pieces = (text[start:end].strip() for start, end in itertools.pairwise(borders))
    return [piece for piece in pieces if piece]
