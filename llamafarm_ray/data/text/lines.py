"""Wrapped lines to running text: divided words become whole, and scripts without spaces get none."""

from __future__ import annotations

import re
from collections.abc import Collection

from llamafarm_ray.text.scripts import CJK, CJK_MARKS

__all__ = ["unwrapped"]

_LINE_END = re.compile(r"[ \t]*\n\s*")
_DIVIDED = re.compile("([^\\W\\d_]+)([-\u2010\u00ad])[ \t]*\n[ \t]*([^\\W\\d_]+)")
_CJK_END = re.compile(f"(?<=[{CJK}{CJK_MARKS}])[ \\t]*\\n[ \\t]*(?=[{CJK}{CJK_MARKS}])")
_COMPOUND = frozenset(
    re.findall(
        r"\w+",
        "all anti close co counter cross ex far fast first follow free full good half hand hard high ill in inter "
        "large left less long low middle mid mother multi near non off old on one open over part post pre pro re right "
        "second self semi short single slow small so sub three two ultra under up user vice web well wide",
    )
)


def unwrapped(text: str, words: Collection[str] = ()) -> str:
    """Join the lines of a paragraph.

    A word divided at a line's end loses its hyphen if the whole word is in ``words``, and keeps it if the compound
    is; in doubt it keeps it after words that usually begin compounds (``well-``, ``self-``). A hyphen U+2010 or a
    soft hyphen at a line's end always goes.

    Args:
        words: words of the document in lower case, compounds with their hyphens.
    """
    if "\n" not in text:
        return text
    text = _DIVIDED.sub(lambda match: _joined(match, words), text)
    if not text.isascii():
        text = _CJK_END.sub("", text)
    return _LINE_END.sub(" ", text)


def _joined(match: re.Match[str], words: Collection[str]) -> str:
    first, mark, rest = match.groups()
    whole, compound = f"{first}{rest}", f"{first}-{rest}"
    if mark != "-":
        return whole
    if not rest[0].islower():
        return compound
    if whole.lower() in words:
        return whole
    if compound.lower() in words or first.lower() in _COMPOUND:
        return compound
    return whole
