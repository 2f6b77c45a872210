"""Curves as SVG, drawn for a page that needs no network and no library: colours come from its style sheet."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llamafarm_ray.pages.axis import round_step, round_ticks

__all__ = ["Chart", "Curve", "Mark", "draw", "thin"]

Point = tuple[float, float]

_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 20.0, 10.0, 28.0
_MAX_POINTS = 300


@dataclass(frozen=True, slots=True)
class Curve:
    """A line.

    Args:
        name: in the legend, and beside a value that is pointed at.
        css: its class in the style sheet.
        points: (step, value), by step.
        dots: mark each point.
        hover: say its value when pointed at.
    """

    name: str
    css: str
    points: Sequence[Point]
    dots: bool = False
    hover: bool = True


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened after a step.

    Args:
        name: its kind, for the legend.
        css: its class in the style sheet.
        text: said when pointed at.
        short: a tick on the axis in place of a line through the picture.
    """

    name: str
    step: float
    css: str
    text: str
    short: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over steps.

    Args:
        curves: with at least one point between them.
        show: a value as text.
        width: of the picture, in its units; text is 12 high.
        height: likewise.
        from_zero: True if the axis begins at 0.
        max_step: end of the horizontal axis.
    """

    title: str
    curves: Sequence[Curve]
    marks: Sequence[Mark] = field(default_factory=tuple)
    show: Callable[[float], str] = lambda value: f"{value:.4g}"
    width: float = 510.0
    height: float = 170.0
    from_zero: bool = False
    max_step: float = 1.0


def draw(chart: Chart) -> str:
    """The chart as an HTML figure; empty text if no curve has a finite point."""
    curves = [
        Curve(curve.name, curve.css, thin(_finite(curve.points), _MAX_POINTS), curve.dots, curve.hover)
        for curve in chart.curves
    ]
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return ""
    values = [value for curve in curves for _, value in curve.points]
    low, high, ticks = _axis(0.0 if chart.from_zero else min(values), max(values))
    last = max(chart.max_step, *(step for curve in curves for step, _ in curve.points), 1.0)

    def x(step: float) -> float:
        return _LEFT + (chart.width - _LEFT - _RIGHT) * step / last

    def y(value: float) -> float:
        return chart.height - _BOTTOM - (chart.height - _TOP - _BOTTOM) * (value - low) / (high - low)

    label = html.escape(chart.title)
    hover = _hover_data(curves, chart, x)
    parts = [
        f'<svg viewBox="0 0 {chart.width:g} {chart.height:g}" role="img" aria-label="{label}" data-hover="{hover}">'
    ]
    for tick in ticks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{chart.width - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        )
        parts.append(f'<text class="y" x="{_LEFT - 8}" y="{y(tick) + 4:.1f}">{html.escape(chart.show(tick))}</text>')
    bottom = chart.height - _BOTTOM
    parts += [
        f'<text class="x" x="{x(tick):.1f}" y="{chart.height - 8:.1f}">{tick:,.0f}</text>' for tick in _step_ticks(last)
    ]
    for mark in chart.marks:
        at = f'x1="{x(mark.step):.1f}" x2="{x(mark.step):.1f}" y1="{bottom - 7 if mark.short else _TOP}" y2="{bottom}"'
        parts.append(f'<line class="mark {mark.css}" {at}><title>{html.escape(mark.text)}</title></line>')
    for curve in curves:
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in curve.points)
        if len(curve.points) > 1:
            parts.append(f'<polyline class="curve {curve.css}" points="{path}"/>')
        if curve.dots or len(curve.points) == 1:
            parts += [
                f'<circle class="{curve.css}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="4"/>'
                for step, value in curve.points
            ]
    parts.append(f'<line class="cursor" y1="{_TOP}" y2="{chart.height - _BOTTOM}"/></svg>')
    names = {curve.name: curve.css for curve in curves} | {mark.name: f"event {mark.css}" for mark in chart.marks}
    legend = "".join(f'<span class="{css}">{html.escape(name)}</span>' for name, css in names.items())
    shown = legend if len(names) > 1 else ""
    return (
        f'<figure><figcaption><b>{html.escape(chart.title)}</b><span class="legend">{shown}</span>'
        f"<output></output></figcaption>{''.join(parts)}</figure>"
    )


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most ``most`` points that look the same: of each stretch its lowest and its highest, by step.

    First and last are kept.
    """
    if len(points) <= most:
        return list(points)
    num_stretches = (most - 2) // 2
    inner = points[1:-1]
    made = [points[0]]
    for index in range(num_stretches):
        stretch = inner[index * len(inner) // num_stretches : (index + 1) * len(inner) // num_stretches]
        made += sorted({min(stretch, key=_value), max(stretch, key=_value)})
    return [*made, points[-1]]


def _value(point: Point) -> float:
    return point[1]


def _finite(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if math.isfinite(point[1])]


def _axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """A range that holds both, and round numbers in it."""
    if high - low <= abs(high) * 1e-9:
        pad = abs(high) * 0.5 or 1.0
        low, high = (0.0, high + pad) if high > 0 else (low - pad, high + pad)
    ticks = round_ticks(low, high)
    return ticks[0], ticks[-1], ticks


def _step_ticks(last: float) -> list[float]:
    size = max(1.0, math.ceil(round_step(last / 6)))
    return [index * size for index in range(int(last // size) + 1)]


def _hover_data(curves: Sequence[Curve], chart: Chart, x: Callable[[float], float]) -> str:
    """Return data for the page's script: each curve's name, and (x, step, text) of each point."""
    data = [
        [curve.name, [[round(x(step), 1), round(step), chart.show(value)] for step, value in curve.points]]
        for curve in curves
        if curve.hover
    ]
    return html.escape(json.dumps(data, separators=(",", ":"), ensure_ascii=False), quote=True)
