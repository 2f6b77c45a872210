"""Progress of a measurement, as a whole and by its parts."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Report", "part_of"]

Report = Callable[[str, float], None]
"""Called with the current activity and the fraction of the whole that is done, 0 to 1."""


def part_of(report: Report, prefix: str, start: float, share: float) -> Report:
    """Return a report of one part of the whole."""

    def report_part(what: str, done: float) -> None:
        report(f"{prefix}{what}", start + share * done)

    return report_part
