"""Bars: amounts by name as rows, and a distribution as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llamafarm_ray.pages.axis import round_step, round_ticks
from llamafarm_ray.pages.page import escaped

__all__ = ["Bar", "bars", "columns"]

_WIDTH, _HEIGHT = 510.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 14.0, 12.0, 40.0
_TICKS_BELOW = 6


@dataclass(frozen=True, slots=True)
class Bar:
    """An amount.

    Args:
        value: its length, not negative.
        note: after the value, as "of 12".
    """

    name: str
    value: float
    note: str = ""
    css: str = ""


def bars(title: str, values: Sequence[Bar]) -> str:
    """Return a figure with one row an amount; nothing where there is none above zero."""
    largest = max((bar.value for bar in values), default=0)
    if not largest:
        return ""
    rows = "".join(
        f'<tr><th title="{escaped(bar.name)}">{escaped(bar.name)}</th>'
        f'<td><i class="{escaped(bar.css)}" style="width:{100 * bar.value / largest:.2f}%"></i></td>'
        f"<td>{bar.value:,g}{escaped(f' {bar.note}' if bar.note else '')}</td></tr>"
        for bar in values
    )
    return f'<figure>{_caption(title)}<table class="bars">{rows}</table></figure>'


def columns(title: str, counts: Sequence[int], *, first: float, width: float, unit: str, caption: str = "") -> str:
    """Return a figure of a distribution over bins of one width; nothing where all are empty.

    Args:
        counts: by bin, in order.
        first: lower end of the first bin.
        width: of each bin.
        unit: of the bins' ends, below the axis.
    """
    if not any(counts):
        return ""
    ticks = round_ticks(0.0, float(max(counts)))
    high, floor = ticks[-1], _HEIGHT - _BOTTOM
    step = (_WIDTH - _LEFT - _RIGHT) / len(counts)
    parts = []
    for tick in ticks:
        y = floor - (floor - _TOP) * tick / high
        parts.append(f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if tick == int(tick):
            parts.append(f'<text class="y" x="{_LEFT - 8:g}" y="{y + 4:.1f}">{tick:,g}</text>')
    for index, count in enumerate(counts):
        height = (floor - _TOP) * count / high
        low = first + index * width
        said = f"{low:,g} to {low + width:,g} {unit}: {count:,}"
        parts.append(
            f'<rect class="column" x="{_LEFT + index * step + 0.5:.1f}" y="{floor - height:.1f}" '
            f'width="{max(1.0, step - 1):.1f}" height="{height:.1f}"><title>{escaped(said)}</title></rect>'
        )
    every = round(max(1.0, round_step(len(counts) / _TICKS_BELOW)))
    parts += [
        f'<text class="x" x="{_LEFT + index * step:.1f}" y="{floor + 16:.1f}">{first + index * width:,g}</text>'
        for index in range(0, len(counts) + 1, every)
    ]
    parts.append(f'<text class="x" x="{(_LEFT + _WIDTH - _RIGHT) / 2:.1f}" y="{_HEIGHT - 6:g}">{escaped(unit)}</text>')
    picture = (
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escaped(title)}">{"".join(parts)}</svg>'
    )
    return f"<figure>{_caption(title, caption)}{picture}</figure>"


def _caption(title: str, caption: str = "") -> str:
    return f'<figcaption><b>{escaped(title)}</b><span class="when">{escaped(caption)}</span></figcaption>'
