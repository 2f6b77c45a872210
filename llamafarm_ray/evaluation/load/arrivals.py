"""Arrival times of open-loop traffic: a schedule that does not wait for answers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Final, Literal, get_args

from llamafarm_ray.errors import InputError, did_you_mean

__all__ = ["PATTERNS", "Pattern", "arrivals"]

Pattern = Literal["poisson", "constant", "bursts", "daily"]

PATTERNS: Final[tuple[Pattern, ...]] = get_args(Pattern)

MAX_ARRIVALS: Final = 2_000_000
"""Limit of one schedule: more would not fit in memory beside their answers."""
_BURST_SHARE: Final = 0.1
_BURST_FACTOR: Final = 5.0
_BURST_EVERY_S: Final = 10.0
_DAILY_SWING: Final = 0.8


def arrivals(pattern: Pattern, rate: float, duration_s: float, rng: random.Random) -> list[float]:
    """Return sorted arrival times in seconds, from 0 to less than ``duration_s``.

    All patterns have the same mean rate. ``poisson`` has independent arrivals, ``constant`` equal gaps. ``bursts`` has
    five times the mean rate during a tenth of the time, every 10 seconds (every third of a shorter simulation).
    ``daily`` goes through one day: from 0.2 times the mean rate at both ends to 1.8 times in the middle.

    The random patterns are Poisson processes, drawn by thinning
    (Lewis and Shedler, 1979, https://doi.org/10.1002/nav.3800260304).

    Raises:
        InputError: the rate or the duration is not positive, there are too many arrivals, or the pattern is unknown.
    """
    if pattern not in PATTERNS:
        raise InputError(f"{pattern!r} is no traffic pattern.", hint=did_you_mean(pattern, PATTERNS))
    for name, value in (("rate", rate), ("duration", duration_s)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"The {name} must be greater than 0, not {value:g}.")
    if rate * duration_s > MAX_ARRIVALS:
        raise InputError(
            f"{rate:g} requests/s for {duration_s:g} s are more than {MAX_ARRIVALS:,} requests.",
            hint="Lower the rate or the duration.",
        )
    if pattern == "constant":
        return [number / rate for number in range(math.ceil(rate * duration_s - 1e-9))]
    intensity, peak = _intensity(pattern, duration_s)
    times: list[float] = []
    at_s = rng.expovariate(rate * peak)
    while at_s < duration_s:
        if rng.random() * peak < intensity(at_s):
            times.append(at_s)
        at_s += rng.expovariate(rate * peak)
    return times


def _intensity(pattern: Pattern, duration_s: float) -> tuple[Callable[[float], float], float]:
    """Return the rate at a time, as a multiple of the mean, and its maximum."""
    if pattern == "bursts":
        period_s = min(_BURST_EVERY_S, duration_s / 3)
        quiet = (1 - _BURST_SHARE * _BURST_FACTOR) / (1 - _BURST_SHARE)
        # In the middle of the period, so that a simulation of whole periods has the mean rate.
        start, end = 0.5 - _BURST_SHARE / 2, 0.5 + _BURST_SHARE / 2
        return lambda at_s: _BURST_FACTOR if start <= at_s / period_s % 1 < end else quiet, _BURST_FACTOR
    if pattern == "daily":
        return lambda at_s: 1 - _DAILY_SWING * math.cos(2 * math.pi * at_s / duration_s), 1 + _DAILY_SWING
    return lambda _: 1.0, 1.0
