"""Looks at a version's requests in their order, so often and no more, with the chance of a false alarm spent on them.

The first requests, at least 1,000 over at least a day, are the reference. Those that follow are compared with it in
windows of 250, and in windows of eight times that, which see smaller differences. An alarm takes an effect that
matters and a p-value below the look's share of ``alpha``. Look ``k`` at either width has ``alpha / 2 / (k (k + 1))``,
split evenly over the signals, whose p-values are corrected for their own shares. These add up to ``alpha``
(Bonferroni): while requests stay alike, a version *ever* raises an alarm with a chance of at most ``alpha``, however
many requests come and however often anybody asks.

Requests are taken as independent: one user who sends hundreds of a kind counts as hundreds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from llamafarm_ray.serving.health.signals import SIGNALS, Difference, compare
from llamafarm_ray.serving.journal.sketch import Sketch

__all__ = ["Alarm", "Health", "Plan", "examine"]

_WIDE: Final = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan of a version's looks.

    Args:
        reference_requests: requests of the reference, at least.
        reference_s: seconds that it spans, at least.
        window_requests: requests of a window, at least.
        alpha: chance that requests which stay alike ever raise an alarm.
    """

    reference_requests: int = 1000
    reference_s: float = 86400.0
    window_requests: int = 250
    alpha: float = 0.01


@dataclass(frozen=True, slots=True)
class Alarm:
    """A difference that matters and is no chance.

    Args:
        difference: the signal and its shares.
        start_s: start of the window, seconds since 1970.
        limit: bound of the p-value.
        num_later: requests of the version since the reference up to the window's end.
    """

    difference: Difference
    start_s: float
    end_s: float
    limit: float
    num_later: int


@dataclass(frozen=True, slots=True)
class Health:
    """A version's health.

    Args:
        is_reference_whole: True if there were enough requests for it.
        window: the sketch of the latest window; None if there is none yet.
        latest: each signal of that window.
        first: the first alarm of each signal.
        current: the alarms that the latest window, or the latest wide one, raises.
    """

    reference: Sketch
    is_reference_whole: bool
    window: Sketch | None
    latest: tuple[Difference, ...]
    first: tuple[Alarm, ...]
    current: tuple[Alarm, ...]
    num_requests: int
    num_looks: int


def examine(blocks: Iterable[Sketch], plan: Plan | None = None, *, known: Sketch | None = None) -> Health:
    """Look at a version.

    Args:
        blocks: its sketches, in any order.
        known: its reference, where that was made before; only blocks that begin after its end are looked at.
    """
    plan = plan or Plan()
    ordered = sorted(blocks, key=lambda one: one.end_s)
    if known is None:
        num_taken = _num_of_reference(ordered, plan)
        reference, later = sum(ordered[:num_taken], Sketch()), ordered[num_taken:]
    else:
        reference, later = known, [block for block in ordered if block.start_s >= known.end_s]
    is_whole = bool(reference.num_requests) and _is_enough(reference, plan)
    windows = list(_windows(later, plan.window_requests)) if is_whole else []
    first: dict[str, Alarm] = {}
    narrow: dict[str, Alarm] = {}
    wide: dict[str, Alarm] = {}
    num_later = 0
    for number, window in enumerate(windows, start=1):
        num_later += window.num_requests
        narrow = _alarms(reference, window, number, plan, num_later)
        if number % _WIDE == 0:
            joined = sum(windows[number - _WIDE : number], Sketch())
            wide = _alarms(reference, joined, number // _WIDE, plan, num_later)
        for name, alarm in {**wide, **narrow}.items():
            first.setdefault(name, alarm)
    last = windows[-1] if windows else None
    compared = (compare(signal, last, reference) for signal in SIGNALS) if last is not None else ()
    return Health(
        reference=reference,
        is_reference_whole=is_whole,
        window=last,
        latest=tuple(one for one in compared if one is not None),
        first=tuple(first.values()),
        current=tuple({**wide, **narrow}.values()),
        num_requests=sum(one.num_requests for one in ordered),
        num_looks=len(windows),
    )


def _num_of_reference(blocks: Sequence[Sketch], plan: Plan) -> int:
    """Return how many of the first blocks make the reference; all of them where they are too few."""
    num_requests, start_s = 0, blocks[0].start_s if blocks else 0.0
    for at, block in enumerate(blocks, start=1):
        num_requests += block.num_requests
        if num_requests >= plan.reference_requests and block.end_s - start_s >= plan.reference_s:
            return at
    return len(blocks)


def _is_enough(reference: Sketch, plan: Plan) -> bool:
    spanned_s = reference.end_s - reference.start_s
    return reference.num_requests >= plan.reference_requests and spanned_s >= plan.reference_s


def _windows(blocks: Iterable[Sketch], num_requests: int) -> Iterator[Sketch]:
    """Join blocks, in their order, to windows of at least so many requests; the last blocks may not fill one."""
    window = Sketch()
    for block in blocks:
        window += block
        if window.num_requests >= num_requests:
            yield window
            window = Sketch()


def _alarms(reference: Sketch, window: Sketch, look: int, plan: Plan, num_later: int) -> dict[str, Alarm]:
    """Return a window's alarms, by signal."""
    limit = plan.alpha / 2 / (look * (look + 1)) / len(SIGNALS)
    found = {}
    for signal in SIGNALS:
        difference = compare(signal, window, reference)
        if difference is not None and difference.matters and difference.p_value <= limit:
            found[signal.name] = Alarm(difference, window.start_s, window.end_s, limit, num_later)
    return found
