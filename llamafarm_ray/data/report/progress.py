"""Progress of a build: the stage it is in, and how much of it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Stage", "Tell", "counting"]

_TELL_EVERY = 1000

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a build at one moment.

    Args:
        name: documents, pairs, examples or write.
        unit: plural noun for the things it goes through.
        total: things to do; None where their number is not known before the end.
    """

    name: str
    unit: str
    done: int
    total: int | None

    @property
    def fraction(self) -> float:
        """Share that is done, 0 to 1; 0 where it is not known."""
        return min(1.0, self.done / self.total) if self.total else 0.0


Tell = Callable[[Stage], None]


def counting(rows: Iterable[Row], tell: Callable[[int], None]) -> Iterator[Row]:
    """Yield the rows, and call ``tell`` with their number at every thousandth and at the end."""
    number = 0
    for number, row in enumerate(rows, start=1):
        yield row
        if number % _TELL_EVERY == 0:
            tell(number)
    tell(number)
