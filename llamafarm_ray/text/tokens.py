"""Words of a text in any script, for comparing texts."""

from __future__ import annotations

import re
import unicodedata

from llamafarm_ray.text.scripts import UNSPACED

__all__ = ["word_tokens"]

_UNSPACED = re.compile(f"[{UNSPACED}]")
_ASCII_WORD = re.compile(r"[a-z0-9]+")


def word_tokens(text: str) -> list[str]:
    """Return the words of ``text`` in lower case, without punctuation.

    A word is a run of letters, digits and their marks. In scripts that put no space between words each letter with
    its vowel and tone marks is one. A text of nothing but symbols has its characters instead, so that two of them
    can be told apart. Compatibility forms are equal: full-width digits, composed and decomposed accents.

    For ASCII these are the tokens of Google's ``rouge_score`` without a stemmer.
    """
    if text.isascii():
        found = _ASCII_WORD.findall(text.lower())
    else:
        found = _words(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()))
    return found or [character for character in text if not character.isspace()]


def _words(text: str) -> list[str]:
    words: list[str] = []
    inside = alone = False
    for character in text:
        kind = unicodedata.category(character)[0]
        if kind == "M":
            # A mark belongs to the letter before it; without one it is no word.
            if inside:
                words[-1] += character
            continue
        if kind not in "LN":
            inside = False
            continue
        unspaced = _UNSPACED.match(character) is not None
        if inside and not unspaced and not alone:
            words[-1] += character
        else:
            words.append(character)
        inside, alone = True, unspaced
    return words
