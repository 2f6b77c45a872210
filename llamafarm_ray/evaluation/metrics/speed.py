"""Times of answers: percentiles, and tokens per second."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["percentile", "tokens_per_second"]


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return a percentile by linear interpolation; None without finite values.

    Source: definition 7 of Hyndman and Fan, 1996 (https://doi.org/10.2307/2684934), numpy's default.
    """
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered:
        return None
    place = (len(ordered) - 1) * percent / 100
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))


def tokens_per_second(num_tokens: int, seconds: float) -> float | None:
    """Return generated tokens by the wall time that they took; None if no time passed.

    Source: output token throughput of MLPerf Inference (https://arxiv.org/abs/1911.02549).
    """
    return num_tokens / seconds if seconds > 0 and math.isfinite(seconds) else None
