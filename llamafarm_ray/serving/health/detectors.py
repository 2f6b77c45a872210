"""Changes that river's ADWIN finds in the same records: a second opinion beside the sequential tests.

Its false alarms have no bound over a version's life. Source: Bifet and Gavalda, Learning from Time-Changing Data with
Adaptive Windowing, 2007 (https://doi.org/10.1137/1.9781611972771.42).
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Final

from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.serving.health.signals import SIGNALS, Signal
from llamafarm_ray.serving.journal.sketch import Sketch

__all__ = ["Change", "check_river", "river_changes"]

_DELTA: Final = 0.002
"""river's default: the chance of a false alarm at one look."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one share.

    Args:
        time_s: end of the block that it was noticed in, seconds since 1970.
        before: the share until then, of the requests that ADWIN had in its window.
        after: of the requests from then to the next change.
        matters: True if they differ by as much as the sequential tests ask for.
    """

    signal: str
    time_s: float
    before: float
    after: float
    matters: bool

    def to_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return asdict(self)


def check_river() -> None:
    """Check that river is there.

    Raises:
        UnsupportedError: it is not installed.
    """
    if importlib.util.find_spec("river") is None:
        raise UnsupportedError("Option --river needs river.", hint="pip install 'llamafarm_ray[drift]'")


def river_changes(blocks: Iterable[Sketch], reference: Sketch) -> list[Change]:
    """Return the changes of each signal in the order of their time.

    A histogram is watched by its share above the reference's median, languages by the share of the reference's most
    common one. Topics have too many shares for it.

    Args:
        blocks: sketches of a version, in any order.
    """
    ordered = sorted(blocks, key=lambda one: one.end_s)
    found = [change for signal in SIGNALS for change in _changes(signal, ordered, reference)]
    return sorted(found, key=lambda one: one.time_s)


def _changes(signal: Signal, blocks: Iterable[Sketch], reference: Sketch) -> Iterator[Change]:
    from river.drift import ADWIN  # an extra

    detector = ADWIN(delta=_DELTA)
    noticed: list[tuple[float, float]] = []  # the time of each change, and the share before it
    since: list[list[int]] = []
    for block in blocks:
        for value in _spread(*_counted(signal, block, reference)):
            before = detector.estimation
            detector.update(value)
            if detector.drift_detected:
                noticed.append((block.end_s, before))
                since.append([])
            if since:
                since[-1].append(value)
    for (time_s, before), values in zip(noticed, since, strict=True):
        after = sum(values) / len(values)
        effect = after - before if signal.one_sided else abs(after - before)
        yield Change(signal.name, time_s, before, after, effect >= signal.least_effect)


def _spread(count: int, total: int) -> Iterator[int]:
    """Yield a 1 or a 0 for each request of a block, whose order is not known: evenly spread."""
    for at in range(total):
        yield (at + 1) * count // total - at * count // total


def _counted(signal: Signal, block: Sketch, reference: Sketch) -> tuple[int, int]:
    """Return the requests of a block that have the watched property, and the number of known ones."""
    if signal.is_histogram:
        histogram: Counter[int] = getattr(block, signal.name)
        median = _median(getattr(reference, signal.name))
        total = histogram.total() if median is not None else 0
        return sum(count for number, count in histogram.items() if median is not None and number > median), total
    if signal.name == "language":
        known = reference.languages.most_common(1)
        return (block.languages[known[0][0]], block.languages.total()) if known else (0, 0)
    if signal.num_tests > 1:  # too many shares
        return 0, 0
    table = signal.table(block, block)
    return int(table.counts[0]), table.total


def _median(histogram: Counter[int]) -> int | None:
    seen = 0
    for number in sorted(histogram):
        seen += histogram[number]
        if 2 * seen >= histogram.total():
            return number
    return None
