"""Errors of libraries that have no error class of their own."""

from __future__ import annotations

__all__ = ["UNREADABLE", "first_line"]

UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors of transformers and peft for a folder that they can't read."""


def first_line(error: BaseException) -> str:
    """A foreign error in one line: its type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
