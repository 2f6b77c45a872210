"""Display of a command's downloads, such as that of a base model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Display", "display_of", "show_downloads"]

Display = Callable[[str], Callable[[int, int | None], None]]
"""Makes, of the name of a source, a function that is told the bytes so far and, where it is known, all of them."""

_shown: ContextVar[Display | None] = ContextVar("display of downloads", default=None)


@contextmanager
def show_downloads(display: Display) -> Iterator[None]:
    """Show the progress of base models that are downloaded in a block."""
    token = _shown.set(display)
    try:
        yield
    finally:
        _shown.reset(token)


def display_of(source: str) -> Callable[[int, int | None], None]:
    """Return the function that shows the download of a source; outside of a command it shows nothing."""
    display = _shown.get()
    return display(source) if display is not None else lambda _done, _total: None
