"""Round numbers along an axis."""

from __future__ import annotations

import math

__all__ = ["round_step", "round_ticks"]

_UNITS = (1.0, 2.0, 2.5, 5.0, 10.0)


def round_step(raw: float) -> float:
    """Return the smallest of 1, 2, 2.5, 5 and 10 times a power of ten that is not below ``raw``."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(unit * power for unit in _UNITS if unit * power >= raw * 0.999)


def round_ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers, the first not above ``low`` and the last not below ``high``, which is larger."""
    step = round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]
