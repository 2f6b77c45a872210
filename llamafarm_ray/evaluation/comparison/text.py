"""A comparison in words, the same in the terminal, in reports and on model cards."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["difference_text"]


def difference_text(comparisons: Mapping[str, Mapping[str, object]], metric: str) -> str:
    """Return a metric's difference with its interval and verdict; for noise, about how many examples would decide it.

    Args:
        comparisons: `Comparison.to_dict` by metric; perplexities are compared by their logarithms.
        metric: name of the metric; one that was not compared has an empty text.
    """
    name = metric if metric in comparisons else f"log_{metric}"
    if name not in comparisons:
        return ""
    comparison = comparisons[name]
    low, high, needed = (comparison.get(key) for key in ("low", "high", "examples_needed"))
    scale = "" if name == metric else "log "
    interval = "" if low is None or high is None else f" ({low:+.3f} to {high:+.3f})"
    decided = f"; about {needed:,} examples would decide it" if needed else ""
    return f"{scale}{comparison['difference']:+.3f}{interval} {comparison['verdict']}{decided}"
