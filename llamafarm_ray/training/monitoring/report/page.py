"""``report.html``: a run on one page, with its style, script and pictures inside."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from llamafarm_ray.pages import asset, bullets, duration, escaped, header, page, tiles, write_page
from llamafarm_ray.training.monitoring.history import History
from llamafarm_ray.training.monitoring.report.charts import Chart, Curve, Mark, Point, draw
from llamafarm_ray.training.monitoring.tracking import Outcome, flat

__all__ = ["RunPage", "write_report"]

_SMOOTH_FROM: Final = 30
_MAX_MARKS: Final = 60
_MAX_ROWS: Final = 100
_EMPTY: Final = {"", "[]", "{}", "()"}


@dataclass(frozen=True, slots=True)
class RunPage:
    """Contents of the page.

    Args:
        history: its steps and events.
        config: the configuration, without what its owner would not publish.
        facts: digests, method, strategy, counts.
        reasons: reasons for choices that were left open.
        warnings: trackers and channels that failed.
        message: the error of a failed run, or why one was stopped.
    """

    name: str
    run_id: str
    outcome: Outcome
    history: History
    config: Mapping[str, object] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    reasons: Sequence[str] = ()
    warnings: Sequence[str] = ()
    message: str = ""
    ended: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    def html(self) -> str:
        """The page."""
        css, script = (asset(__package__, name) for name in ("style.css", "hover.js"))
        return page(f"{self.name}: training run", self._parts(), css=css, script=script)

    def _parts(self) -> Iterator[str]:
        run = f"{self.ended:%Y-%m-%d %H:%M} UTC · run <code>{escaped(self.run_id)}</code>"
        yield header(self.name, outcome=self.outcome, when=run)
        if self.message:
            yield f'<p class="error">{escaped(self.message)}</p>'
        yield _tiles(self.history)
        yield '<section class="charts">' + "\n".join(draw(chart) for chart in _charts(self.history)) + "</section>"
        yield _alerts(self.history)
        yield bullets("Why it was done this way", self.reasons)
        yield bullets("Trouble on the way", self.warnings)
        yield _checkpoints(self.history)
        yield _table("The run", flat(self.facts))
        yield _table("Settings", flat(self.config), columns=2)


def write_report(path: Path, run: RunPage) -> None:
    """Write the page, whole or not at all.

    Raises:
        OSError: it can't be written.
    """
    write_page(path, run.html())


def memory(num_bytes: float) -> str:
    """An amount of memory for people."""
    return f"{num_bytes / 2**30:.3g} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.4g} MiB"


def compact(value: float) -> str:
    """A count or speed for people: ``1.25k``."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.4g}{unit}"
    return f"{value:,.4g}"


def _tiles(history: History) -> str:
    steps = history.steps
    if not steps:
        return "<p>No step was done.</p>"
    last = steps[-1]
    shown = [(f"{last.step:,} / {last.total_steps:,}", "steps"), (duration(last.seconds, decimals=1), "training time")]
    losses = [step.loss for step in steps]
    shown.append((f"{losses[0]:.3f} → {losses[-1]:.3f}" if len(losses) > 1 else f"{losses[0]:.3f}", "training loss"))
    if validations := [v for v in history.validations if math.isfinite(v.loss)]:
        best = min(validations, key=lambda one: one.loss)
        shown.append((f"{best.loss:.4g}", "best validation loss"))
    speeds = sorted(step.tokens_per_s for step in steps)
    shown.append((compact(speeds[len(speeds) // 2]), "tokens/s"))
    if peak := max((step.memory_bytes or 0 for step in steps), default=0):
        shown.append((memory(peak), "peak memory"))
    used = sorted(step.mfu for step in steps if step.mfu is not None)
    if used:
        shown.append((f"{used[len(used) // 2]:.1%}", "MFU"))
    return tiles(shown)


def _charts(history: History) -> Iterator[Chart]:
    losses = [(float(step.step), step.loss) for step in history.steps]
    smoothed = _smooth(losses) if len(losses) >= _SMOOTH_FROM else []
    curves = [
        Curve("each step", "raw", losses, hover=not smoothed),
        Curve("training, smoothed", "train", smoothed),
        Curve("validation", "validation", [(float(v.step), v.loss) for v in history.validations], dots=True),
    ]
    if not smoothed:
        curves[0] = Curve("training", "train", losses)
    marks = _marks(history)
    end = float(max([step.step for step in history.steps], default=1))
    yield Chart("Loss", curves, marks, width=1040, height=330, max_step=end)

    def chart(title: str, name: str, unit: float = 1.0, **options: Any) -> Chart:
        known = [(float(step.step), getattr(step, name)) for step in history.steps]
        points = [(step, value / unit) for step, value in known if value is not None]
        return Chart(title, [Curve(title, "plain", points)], from_zero=True, max_step=end, **options)

    peak = max((step.memory_bytes or 0 for step in history.steps), default=0)
    unit, unit_name = (2**30, "GiB") if peak >= 2**30 else (2**20, "MiB")
    yield chart("Learning rate", "learning_rate", show=_rate)
    yield chart("Gradient norm, before clipping", "grad_norm")
    yield chart("Tokens per second", "tokens_per_s", show=compact)
    yield chart(f"Peak memory of the first worker ({unit_name})", "memory_bytes", unit)
    yield chart("Model FLOPs utilisation (%)", "mfu", 0.01)


def _rate(value: float) -> str:
    """``1.5e-4``."""
    number, _, power = f"{value:.3g}".partition("e")
    if not power and 0 < abs(value) < 1e-3:  # where zeros get hard to count
        number, _, power = f"{value:.2e}".partition("e")
        number = number.rstrip("0").rstrip(".")
    return f"{number}e{int(power)}" if power else number


def _smooth(points: Sequence[Point]) -> list[Point]:
    """The mean around each point: seen from the end, there is no need to lag behind."""
    known = [point for point in points if math.isfinite(point[1])]
    sums = list(itertools.accumulate((value for _, value in known), initial=0.0))
    reach = max(2, len(known) // 80)
    made = []
    for index, (step, _) in enumerate(known):
        start, end = max(0, index - reach), min(len(known), index + reach + 1)
        made.append((step, (sums[end] - sums[start]) / (end - start)))
    return made


def _marks(history: History) -> list[Mark]:
    marks = [Mark("alert", one.step, "alert", one.text) for one in history.alerts]
    marks += [
        Mark("went on", step, "resume", f"Went on after an interruption, from step {step}.")
        for step in history.attempts
    ]
    checkpoints = history.checkpoints[:: 1 + len(history.checkpoints) // _MAX_MARKS]
    marks += [
        Mark("checkpoint", one.step, "checkpoint", f"Checkpoint of step {one.step}.", short=True) for one in checkpoints
    ]
    return marks


def _alerts(history: History) -> str:
    if not history.alerts:
        return ""
    rows = "".join(
        f'<tr><td>{one.step:,}</td><td class="kind">{escaped(one.kind.replace("_", " "))}</td>'
        f"<td>{escaped(one.text)}</td></tr>"
        for one in history.alerts[:_MAX_ROWS]
    )
    return f"<h2>Alerts</h2><table><thead><tr><th>step</th><th>kind</th><th>what</th></tr></thead>{rows}</table>"


def _checkpoints(history: History) -> str:
    if not history.checkpoints:
        return ""
    shown = history.checkpoints[-_MAX_ROWS:]
    rows = "".join(f"<tr><td>{one.step:,}</td><td>{duration(one.seconds, decimals=1)}</td></tr>" for one in shown)
    return (
        f"<details><summary>Checkpoints written: {len(history.checkpoints):,}</summary>"
        f"<table><thead><tr><th>step</th><th>time to write</th></tr></thead>{rows}</table></details>"
    )


def _table(title: str, rows: Mapping[str, str], *, columns: int = 1) -> str:
    shown = [(key, value) for key, value in rows.items() if key and value not in _EMPTY]
    if not shown:
        return ""
    size = -(-len(shown) // columns)
    tables = "".join(
        "<table>"
        + "".join(f"<tr><th>{_key(key)}</th><td>{_number(value)}</td></tr>" for key, value in part)
        + "</table>"
        for part in (shown[start : start + size] for start in range(0, len(shown), size))
    )
    return f'<h2>{escaped(title)}</h2><div class="{"columns" if columns > 1 else "one"}">{tables}</div>'


def _key(name: str) -> str:
    """A dotted key that may break after its dots."""
    return escaped(name).replace(".", ".<wbr>").replace("_", "_<wbr>")


def _number(value: str) -> str:
    """A long whole number with its thousands apart."""
    is_long = value.isdecimal() and len(value) > 4  # as numbers are written
    return f"{int(value):,}" if is_long else escaped(value)
