"""Formatting of keys and values in messages: readable, short, and safe to print."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["dotted", "near", "shown"]

_MAX_CHARACTERS = 80
_LEAST_LIKENESS = 0.7
_MAX_DIFFERENCE_IN_LIKENESS = 0.1


def dotted(path: Iterable[object]) -> str:
    """A path as people write it; names that can't be read are quoted, positions in a list stand in brackets."""
    text = ""
    for part in path:
        if isinstance(part, int) and not isinstance(part, bool):
            text += f"[{part}]"
            continue
        readable = isinstance(part, str) and part.isprintable() and 0 < len(part) <= _MAX_CHARACTERS
        name = str(part) if readable else shown(part)
        text += f".{name}" if text else name
    return text


def shown(value: object) -> str:
    """A value as a message shows it: in JSON's words, and cut if it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 4]} ..."


def near(name: str, known: Iterable[str], *, least: float = _LEAST_LIKENESS) -> list[str]:
    """Return the known names that look like a name, the nearest first, without those that are much less like it.

    Args:
        name: name to look for.
        least: likeness from 0 to 1 that a name has to have.
    """
    simple = name[:_MAX_CHARACTERS].lower().replace("-", "_").replace(" ", "_")
    candidates = sorted(set(known))
    if simple in candidates:
        return [simple]
    found = difflib.get_close_matches(simple, candidates, n=3, cutoff=least)
    likeness = {other: difflib.SequenceMatcher(None, other, simple).ratio() for other in found}
    return [other for other in found if likeness[other] > likeness[found[0]] - _MAX_DIFFERENCE_IN_LIKENESS]
