"""The engine that recognizes the text of scanned pages while documents are read."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

__all__ = ["engine_of_scans", "recognizing"]

_engine: contextvars.ContextVar[str] = contextvars.ContextVar("_engine", default="")


@contextlib.contextmanager
def recognizing(engine: str) -> Iterator[None]:
    """Recognize scanned pages of the documents that are read in this block.

    Args:
        engine: ``tesseract``, ``tesseract:eng+deu`` with its languages, ``module:function`` for a plug-in, or ""
            for none.
    """
    token = _engine.set(engine)
    try:
        yield
    finally:
        _engine.reset(token)


def engine_of_scans() -> str:
    """Return the engine of the block that runs; "" for none."""
    return _engine.get()
