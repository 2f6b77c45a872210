"""Typing mistakes: letters that are swapped, missing, doubled, or hit beside the right key."""

from __future__ import annotations

import random
import re

__all__ = ["mistyped"]

_WORD = re.compile(r"(?<![\w'\u2019])[a-z]{4,}(?![\w'\u2019])")
_KEYS = {
    key: near
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for key, near in zip(row, zip(row[:1] + row[:-1], row[1:] + row[-1:], strict=True), strict=True)
}


def mistyped(text: str, rate: float, chance: random.Random) -> str:
    """Return ``text`` with mistakes in some of its words; the same text if none may have one.

    Words in lower case of four Latin letters or more may have one: names, numbers and codes stay as they are.

    Args:
        rate: share of the words to change; at least one.
        chance: chooses words and mistakes.
    """
    words = list(_WORD.finditer(text))
    chosen = chance.sample(words, min(len(words), max(1, round(rate * len(text.split())))))
    for word in sorted(chosen, key=lambda match: -match.start()):
        text = text[: word.start()] + _changed(word[0], chance) + text[word.end() :]
    return text


def _changed(word: str, chance: random.Random) -> str:
    at = chance.randrange(1, len(word) - 1)
    wrong = [letter for letter in _KEYS[word[at]] if letter != word[at]]
    forms = [
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
        word[:at] + chance.choice(wrong) + word[at + 1 :],
    ]
    return chance.choice([form for form in forms if form != word])
