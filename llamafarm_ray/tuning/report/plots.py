"""A sweep in pictures, as SVG for a page that needs no network and no library: colours come from its style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llamafarm_ray.config import Domain
from llamafarm_ray.pages import round_ticks
from llamafarm_ray.tuning.explain import plain
from llamafarm_ray.tuning.journal import Record, State

__all__ = ["course", "curves", "parallel", "ranks"]

_WIDTH: Final = 1040.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 64.0, 44.0, 14.0
_HEIGHT: Final = 340.0
_SMALL_HEIGHT: Final = 220.0
_MAX_TRIALS: Final = 400
"""More lines than these say nothing more."""
_NONE: Final = object()


@dataclass(frozen=True, slots=True)
class _Axis:
    """One vertical axis.

    Args:
        ticks: (height from 0 to 1, text).
        place: the height of a value, from 0 to 1.
    """

    title: str
    ticks: Sequence[tuple[float, str]]
    place: Callable[[Any], float]


def ranks(ranked: Sequence[Record]) -> dict[int, float]:
    """Return each finished trial's rank by its number: 1 the best, 0 the worst."""
    last = max(1, len(ranked) - 1)
    return {record.number: 1 - position / last for position, record in enumerate(ranked)}


def parallel(records: Sequence[Record], ranked: Sequence[Record], domains: Mapping[str, Domain], *, metric: str) -> str:
    """A line a trial, through its values on an axis for each key; the last axis is the metric."""
    shown = [record for record in records if record.state in {State.FINISHED, State.STOPPED}][-_MAX_TRIALS:]
    keys = [key for key in domains if len({str(record.values.get(key)) for record in shown}) > 1]
    values = [value for record in shown if (value := record.last) is not None and math.isfinite(value)]
    if not keys or len(values) < 2:  # one line shows nothing
        return ""
    axes = [_axis(key, domains[key], [record.values.get(key, _NONE) for record in shown]) for key in keys]
    # Those that were stopped would press the others together: they end at the axis's end, whatever they had reached.
    scale = [record.value for record in ranked if record.value is not None] if len(ranked) > 1 else values
    axes.append(_linear(metric.replace("_", " "), min(scale), max(scale)))
    step = (_WIDTH - _LEFT - _RIGHT) / (len(axes) - 1)
    height = _HEIGHT - _TOP - _BOTTOM

    def y(place: float) -> float:
        return _TOP + height * (1 - place)

    good, lines = ranks(ranked), []
    order = sorted(shown, key=lambda record: good.get(record.number, -1.0))  # the best is drawn last, on top
    for record in order:
        last = record.last
        if last is None or not math.isfinite(last):
            continue
        places = [axis.place(record.values.get(key, _NONE)) for key, axis in zip(keys, axes, strict=False)]
        places.append(axes[-1].place(last))
        lines.append(_trial_line(record, [(_LEFT + index * step, y(one)) for index, one in enumerate(places)], good))
    drawn = []
    for index, axis in enumerate(axes):
        x = _LEFT + index * step
        drawn.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        drawn.append(f'<text class="title" x="{x:.1f}" y="20">{html.escape(axis.title)}</text>')
        drawn += [
            f'<text class="after" x="{x + 8:.1f}" y="{y(place) + 4:.1f}">{html.escape(text[:24])}</text>'
            for place, text in axis.ticks
        ]
    label = f"Settings and {metric.replace('_', ' ')} of each trial"
    return _figure("Settings of every trial", _legend(ranked), _svg(label, _HEIGHT, [*lines, *drawn]), "wide")


def course(records: Sequence[Record], *, metric: str, lower_is_better: bool) -> str:
    """The metric of each finished trial in the order they ended up, and the best so far."""
    known = [
        (record.number, record.value) for record in records if record.value is not None and math.isfinite(record.value)
    ]
    if len(known) < 2:  # one dot shows nothing
        return ""
    pick = min if lower_is_better else max
    best = [(number, pick(value for _, value in known[: index + 1])) for index, (number, _) in enumerate(known)]
    low, high, ticks = _range(min(value for _, value in known), max(value for _, value in known))
    last = max(1, len(records) - 1)
    x, y, grid = _frame(low, high, ticks, [(number, f"{number}") for number in _whole_ticks(last)], last)
    path = f"M{x(best[0][0]):.1f},{y(best[0][1]):.1f}"
    for number, value in best[1:]:
        path += f" H{x(number):.1f} V{y(value):.1f}"
    path += f" H{x(last):.1f}"
    dots = [
        f'<circle class="dot" cx="{x(number):.1f}" cy="{y(value):.1f}" r="4">'
        f"<title>trial {number}: {plain(value)}</title></circle>"
        for number, value in known
    ]
    legend = '<span class="key dot">a trial</span><span class="key best">the best so far</span>'
    parts = [*grid, f'<path class="best" d="{path}"/>', *dots]
    name = metric.replace("_", " ")
    picture = _svg(f"{name} of each trial", _SMALL_HEIGHT, parts, half=True)
    return _figure(f"How the search went ({name})", legend, picture)


def curves(records: Sequence[Record], ranked: Sequence[Record], *, metric: str) -> str:
    """The metric of each trial at the points of comparison; where a line ends, the trial was stopped."""
    shown = [record for record in records if len(record.points) > 0][-_MAX_TRIALS:]
    values = [value for record in shown for value in record.points.values() if math.isfinite(value)]
    last = max((max(record.points) for record in shown), default=1)
    if len(shown) < 2 or last < 2:  # nothing to compare
        return ""
    # One trial that diverged would press all others into a line.
    top = sorted(values)[max(0, math.ceil(0.97 * len(values)) - 1)]
    low, high, ticks = _range(min(values), top)
    x, y, grid = _frame(low, high, ticks, [(point, f"{point}") for point in _whole_ticks(last) if point], last)
    good, drawn = ranks(ranked), []
    for record in sorted(shown, key=lambda record: good.get(record.number, -1.0)):
        known = sorted((point, value) for point, value in record.points.items() if math.isfinite(value))
        points = [(x(point), y(min(high, value))) for point, value in known]
        if points:
            drawn.append(_trial_line(record, points, good, dot=len(points) == 1))
    name = metric.replace("_", " ")
    picture = _svg(f"{name} at each comparison", _SMALL_HEIGHT, [*grid, *drawn], half=True)
    return _figure(f"On the way: {name} at each comparison", "", picture)


def _trial_line(
    record: Record, points: Sequence[tuple[float, float]], good: Mapping[int, float], *, dot: bool = False
) -> str:
    """A trial that says its settings when pointed at; coloured by how good it is, grey if it did not finish."""
    is_finished = record.number in good
    css = "trial" + ("" if is_finished else " stopped") + (" first" if good.get(record.number) == 1 else "")
    style = f' style="--t:{good[record.number]:.3f}"' if is_finished else ""
    words = ", ".join(f"{key.rpartition('.')[2]} {plain(value)}" for key, value in record.values.items())
    text = html.escape(f"trial {record.number}, {record.state}: {plain(record.last)} ({words})")
    if dot:
        x, y = points[0]
        shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    else:
        shape = f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
    return f'<g class="{css}"{style}><title>{text}</title>{shape}</g>'


def _axis(key: str, domain: Domain, values: Sequence[Any]) -> _Axis:
    title = key.rpartition(".")[2]
    is_missing = any(value is _NONE for value in values)
    if domain.is_list:
        names = [plain(value) for value in domain.values] + (["-"] if is_missing else [])
        gap = 1 / max(1, len(names) - 1)
        middle = 0.5 if len(names) == 1 else None
        place = {name: middle if middle is not None else index * gap for index, name in enumerate(names)}
        marks = [(at, name) for name, at in place.items()]
        return _Axis(title, marks, lambda value: place["-" if value is _NONE else plain(value)])
    low, high = (float(one) for one in domain.values[:2])
    floor = 0.08 if is_missing else 0.0
    is_log = domain.kind.startswith("log_")
    start, end = (math.log(low), math.log(high)) if is_log else (low, high)

    def at(value: Any) -> float:
        if value is _NONE:
            return 0.0
        number = math.log(value) if is_log else float(value)
        return floor + (1 - floor) * (number - start) / (end - start)

    ticks = _log_ticks(low, high) if is_log else _range(low, high)[2]
    marked = [(at(tick), plain(float(tick))) for tick in ticks if low <= tick <= high]
    return _Axis(title, [*marked, *([(0.0, "-")] if is_missing else [])], at)


def _linear(title: str, low: float, high: float) -> _Axis:
    start, end, ticks = _range(low, high)

    def at(value: float) -> float:
        return min(1.0, max(0.0, (value - start) / (end - start)))

    return _Axis(title, [(at(tick), plain(float(tick))) for tick in ticks], at)


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 of each where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    leading = (1, 2, 5) if len(powers) <= 3 else (1,)  # as many as there is room for
    return [lead * 10.0**power for power in powers for lead in leading]


def _range(low: float, high: float) -> tuple[float, float, list[float]]:
    """Round numbers around two values."""
    if high - low <= abs(high) * 1e-9:
        low, high = low - (abs(low) * 0.1 or 1.0), high + (abs(high) * 0.1 or 1.0)
    ticks = round_ticks(low, high)
    return ticks[0], ticks[-1], ticks


def _whole_ticks(last: int) -> list[int]:
    size = max(1, -(-last // 8))
    return list(range(0, last + 1, size))


def _frame(
    low: float, high: float, ticks: Sequence[float], below: Sequence[tuple[int, str]], last: int
) -> tuple[Callable[[float], float], Callable[[float], float], list[str]]:
    """Return positions in a small picture, and its grid."""
    width, left, right, top, bottom = _WIDTH / 2, 56.0, 14.0, 10.0, 24.0

    def x(value: float) -> float:
        return left + (width - left - right) * value / last

    def y(value: float) -> float:
        return _SMALL_HEIGHT - bottom - (_SMALL_HEIGHT - top - bottom) * (value - low) / (high - low)

    grid = []
    for tick in ticks:
        grid.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        text = html.escape(plain(float(tick)))
        grid.append(f'<text class="before" x="{left - 8}" y="{y(tick) + 4:.1f}">{text}</text>')
    grid += [f'<text class="title" x="{x(at):.1f}" y="{_SMALL_HEIGHT - 6:.1f}">{text}</text>' for at, text in below]
    return x, y, grid


def _legend(ranked: Sequence[Record]) -> str:
    if len(ranked) < 2:  # a scale has two ends
        return ""
    return (
        f'<span class="scale">best {plain(ranked[0].value)}<i></i>{plain(ranked[-1].value)} worst</span>'
        '<span class="key stopped">stopped early</span>'
    )


def _svg(label: str, height: float, parts: Sequence[str], *, half: bool = False) -> str:
    width = _WIDTH / 2 if half else _WIDTH
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{html.escape(label)}">{inside}</svg>'


def _figure(title: str, legend: str, picture: str, css: str = "") -> str:
    caption = f'<b>{html.escape(title)}</b><span class="legend">{legend}</span>'
    return f'<figure class="{css}"><figcaption>{caption}</figcaption>{picture}</figure>'
