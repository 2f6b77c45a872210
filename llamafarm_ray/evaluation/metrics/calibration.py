"""Calibration: stated confidence against the share of right answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["calibration_error"]

_NUM_BINS = 10


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> float | None:
    """Return the expected calibration error, 0 (best) to 1; None if there is nothing to measure.

    Source: Guo et al., 2017 (https://proceedings.mlr.press/v70/guo17a.html): the gap between mean confidence and
    accuracy in bins of equal width, weighted by their sizes.

    Args:
        confidences: probability given to each answer; ones that are no number from 0 to 1 are left out.
        right: for each answer, True if it is right.
    """
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, is_right in zip(confidences, right, strict=True):
        if math.isfinite(confidence) and 0 <= confidence <= 1:
            # A bin holds its upper border, as in the paper: (0.8, 0.9].
            at = max(0, math.ceil(round(confidence * _NUM_BINS, 9)) - 1)
            bins.setdefault(at, []).append((confidence, is_right))
    total = sum(map(len, bins.values()))
    if not total:
        return None
    return sum(abs(math.fsum(c - bool(r) for c, r in held)) for held in bins.values()) / total
