"""Texts as the demo prints them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["cut", "short", "spelled"]


def spelled(counts: Mapping[str, int]) -> str:
    """Return numbers with their names: ``closed_book 3, gold 7``."""
    return ", ".join(f"{name} {number}" for name, number in counts.items())


def short(path: object) -> str:
    """Return a path as it is seen from the current folder."""
    text = Path(str(path))
    return str(text.relative_to(Path.cwd())) if text.is_relative_to(Path.cwd()) else str(text)


def cut(text: str, length: int = 70) -> str:
    """Return the beginning of a text that is too long for a table."""
    return text if len(text) <= length else text[: length - 1] + "…"
