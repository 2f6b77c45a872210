"""``report.html``: a sweep on one page, with its style and pictures inside."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from llamafarm_ray import pages
from llamafarm_ray.config import Domain
from llamafarm_ray.pages import asset, bullets, duration, escaped, header, page, tiles
from llamafarm_ray.tuning.explain import plain
from llamafarm_ray.tuning.journal import Record, State
from llamafarm_ray.tuning.report.plots import course, curves, parallel

__all__ = ["SweepPage", "write_page"]

_MAX_ROWS: Final = 300


@dataclass(frozen=True, slots=True)
class SweepPage:
    """Contents of the page.

    Args:
        lower_is_better: True if the lowest value is the best.
        ranked: the finished ones, the best first.
        reasons: reasons for the search space.
        ended_because: reason that no further trial began.
        seconds: over all sessions.
        is_running: True if more trials follow.
        written: time of writing.
    """

    name: str
    metric: str
    lower_is_better: bool
    domains: Mapping[str, Domain]
    records: Sequence[Record]
    ranked: Sequence[Record]
    words: Sequence[str] = ()
    reasons: Sequence[str] = ()
    ended_because: str = ""
    seconds: float = 0.0
    is_running: bool = False
    written: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    def html(self) -> str:
        """The page."""
        return page(f"{self.name}: sweep", self._parts(), css=asset(__package__, "style.css"))

    def _parts(self) -> Iterator[str]:
        state = "running" if self.is_running else "finished"
        when = f"{self.written:%Y-%m-%d %H:%M} UTC" + (
            f" · {escaped(self.ended_because)}" if self.ended_because else ""
        )
        yield header(self.name, outcome=state, when=when)
        yield self._tiles()
        yield bullets("What was found", self.words)
        charts = [
            parallel(self.records, self.ranked, self.domains, metric=self.metric),
            course(self.records, metric=self.metric, lower_is_better=self.lower_is_better),
            curves(self.records, self.ranked, metric=self.metric),
        ]
        drawn = "\n".join(chart for chart in charts if chart)
        yield f'<section class="charts">{drawn}</section>' if drawn else ""
        yield self._table()
        yield bullets("Why this was searched", self.reasons)

    def _tiles(self) -> str:
        counts = {state: sum(record.state is state for record in self.records) for state in State}
        shown = [(plain(self.ranked[0].value), f"best {self.metric.replace('_', ' ')}")] if self.ranked else []
        shown += [(str(self.ranked[0].number), "best trial")] if self.ranked else []
        names = {
            State.FINISHED: "trained to the end",
            State.STOPPED: "stopped early",
            State.RUNNING: "unfinished",
            State.FAILED: "failed",
            State.INVALID: "no valid configuration",
        }
        shown += [(str(counts[state]), name) for state, name in names.items() if counts[state]]
        shown += [(duration(self.seconds), "in all")] if self.seconds else []
        return tiles(shown)

    def _table(self) -> str:
        others = [record for record in self.records if record not in self.ranked]
        order = [*self.ranked, *sorted(others, key=lambda record: (_ORDER[record.state], record.number))]
        keys = list(self.domains)
        head = "".join(f"<th>{escaped(key.rpartition('.')[2])}</th>" for key in keys)
        rows = "".join(self._row(record, keys) for record in order[:_MAX_ROWS])
        more = f"<p>{len(order) - _MAX_ROWS} more are in trials.jsonl.</p>" if len(order) > _MAX_ROWS else ""
        return (
            f'<h2>Trials, the best first</h2><div class="scroll"><table><thead><tr><th>trial</th><th></th>'
            f'<th class="number">{escaped(self.metric.replace("_", " "))}</th>{head}<th class="number">time</th>'
            f"<th></th></tr></thead>{rows}</table></div>{more}"
        )

    def _row(self, record: Record, keys: Sequence[str]) -> str:
        is_first = bool(self.ranked) and record is self.ranked[0]
        cells = "".join(
            f"<td>{escaped(plain(record.values[key]) if key in record.values else '-')}</td>" for key in keys
        )
        took = duration(record.seconds) if record.seconds else ""
        css = "failed" if record.state is State.FAILED else str(record.state)
        return (
            f"<tr{' class=first' if is_first else ''}><td>{record.number}</td>"
            f'<td class="state {css if css != "finished" else ""}">{escaped(record.state)}</td>'
            f'<td class="number">{escaped(plain(record.last))}</td>{cells}<td class="number">{took}</td>'
            f'<td class="why">{escaped(record.reason or record.why)}</td></tr>'
        )


_ORDER: Final = {State.RUNNING: 0, State.FINISHED: 1, State.STOPPED: 2, State.FAILED: 3, State.INVALID: 4}


def write_page(path: Path, sweep: SweepPage) -> None:
    """Write the page, whole or not at all.

    Raises:
        OSError: it can't be written.
    """
    pages.write_page(path, sweep.html())
