"""Amounts as people read them."""

from __future__ import annotations

__all__ = ["duration"]

_STEP = 60


def duration(seconds: float, *, decimals: int = 0) -> str:
    """Write a length of time: ``45 s``, ``3 min 20 s``, ``1 h 05 min``.

    Args:
        decimals: digits behind the point of a time below a minute.
    """
    if seconds < _STEP:
        return f"{seconds:.{decimals}f} s"
    minutes, rest = divmod(round(seconds), _STEP)
    if minutes < _STEP:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // _STEP} h {minutes % _STEP:02d} min"
