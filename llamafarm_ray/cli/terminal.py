"""Output for people: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from llamafarm_ray.errors import LlamaFarmError

__all__ = [
    "StageProgress",
    "ago",
    "begin",
    "clock",
    "console",
    "drawn_facts",
    "drawn_table",
    "errors",
    "facts",
    "is_json",
    "local_time",
    "number",
    "print_json",
    "redrawn",
    "say",
    "size",
    "stage_bars",
    "stages",
    "table",
    "waiting",
]

console = Console(highlight=False, soft_wrap=True, emoji=False)
_error_console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def is_json(arguments: Sequence[str]) -> bool:
    """Return True if a command line asks for JSON."""
    return "--json" in arguments


def print_json(value: object) -> None:
    """A result for programs: one JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


class _Errors:
    def line(self, text: str) -> None:
        """One line on standard error."""
        _error_console.print(_printable(text), markup=False)

    def show(self, error: LlamaFarmError, *, as_json: bool) -> None:
        """An error for people (what, which value, what to do) or for programs (the same with its code)."""
        if as_json:
            body = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
            sys.stderr.write(json.dumps(body, ensure_ascii=False) + "\n")
            return
        _error_console.print(f"[bold red]error[/] [dim]{error.code}[/]", end=" ")
        _error_console.print(_printable(error.message), markup=False, end=" " if error.hint else "\n")
        if error.hint:
            _error_console.print(_printable(error.hint), markup=False, style="yellow")


errors = _Errors()


def say(text: str, *, style: str = "") -> None:
    """One line on standard output. Text that others wrote into a registry can't steer the terminal."""
    console.print(_printable(text), markup=False, style=style)


def drawn_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    drop_empty: bool = False,
    whole: Sequence[str] = (),
) -> Table:
    """A table; the first column names the row and is never broken.

    Args:
        rows: a cell a column; a :class:`rich.text.Text` keeps its style.
        drop_empty: leave out columns that say nothing in any row.
        whole: the other columns that are never broken.
    """
    shown = [n for n in range(len(columns)) if not drop_empty or any(str(row[n]) for row in rows)]
    made = Table(
        title=escape(_printable(title)),
        title_justify="left",
        title_style="bold",
        header_style="bold cyan",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for n in shown:
        made.add_column(columns[n], overflow="fold", no_wrap=n == 0 or columns[n] in whole)
    for row in rows:
        made.add_row(*(cell if isinstance(cell := row[n], Text) else escape(_printable(str(cell))) for n in shown))
    return made


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    drop_empty: bool = False,
    whole: Sequence[str] = (),
) -> None:
    """A table on standard output, see :func:`drawn_table`."""
    console.print(drawn_table(title, columns, rows, drop_empty=drop_empty, whole=whole))


def redrawn(tables: Iterable[RenderableType]) -> None:
    """Tables or groups of them on standard output: each in the place of the last, or below if it is no terminal."""
    if not console.is_interactive:
        for made in tables:
            console.print(made)
        return
    with Live(console=console, auto_refresh=False) as live:
        for made in tables:
            live.update(made, refresh=True)


def drawn_facts(title: str, pairs: Sequence[tuple[str, object]]) -> RenderableType:
    """Names and values below each other; those without a value are left out.

    Args:
        pairs: name and value; a :class:`rich.text.Text` keeps its style.
    """
    made = Table.grid(padding=(0, 2))
    made.add_column(style="cyan", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        if str(value):
            cell = value if isinstance(value, Text) else escape(_printable(str(value)))
            made.add_row(escape(f"  {_printable(name)}"), cell)
    return Group(Text(_printable(title), style="bold", overflow="fold", no_wrap=False), made)


def facts(title: str, pairs: Sequence[tuple[str, object]]) -> None:
    """Names and values on standard output, see :func:`drawn_facts`; nothing where there are none."""
    if any(str(value) for _, value in pairs):
        console.print(drawn_facts(title, pairs))


def local_time(time: dt.datetime) -> str:
    """A time for people: theirs."""
    return f"{time.astimezone():%Y-%m-%d %H:%M}"


def ago(time: dt.datetime, now: dt.datetime | None = None) -> str:
    """Return the time since a moment, in one unit."""
    seconds = ((now or dt.datetime.now(dt.UTC)) - time).total_seconds()
    for unit, length_s in _LENGTHS:
        if seconds >= 2 * length_s or unit == "min":
            count = int(seconds // length_s)
            return f"{count} {unit} ago" if count > 0 else "just now"
    raise AssertionError("minutes take whatever is left")


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds: ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


_LENGTHS = (("years", 365 * 86400), ("months", 30 * 86400), ("days", 86400), ("h", 3600), ("min", 60))


def size(num_bytes: int) -> str:
    """An amount of bytes for people, in powers of 1000."""
    value = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:  # the step between units
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB"


def number(value: float | None) -> str:
    """A measured number for people; empty for none."""
    return "" if value is None else f"{value:,.4g}"


def _printable(text: str) -> str:
    """Return a text without control characters and overrides of the writing direction."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def begin(text: str, *, quiet: bool = False) -> None:
    """Name the next step on standard error, before imports or starts that take seconds."""
    if not quiet:
        _error_console.print(_printable(f"{text} ..."), markup=False, style="dim")


@contextmanager
def waiting(text: str, *, quiet: bool = False) -> Iterator[None]:
    """A spinner on standard error for the time of a block; nothing where it is no terminal or ``quiet``."""
    if quiet or not _error_console.is_terminal:
        yield
        return
    with _error_console.status(escape(text)):
        yield


class StageProgress:
    """One bar a stage of a workflow, and below it what else there is to say."""

    def __init__(self, progress: Any, *, in_lines: bool = False) -> None:
        self._progress = progress
        self._in_lines = in_lines
        self._tasks: dict[str, int] = {}
        self._said_at = time.monotonic()

    @property
    def width(self) -> int:
        """Columns that there are."""
        return _error_console.width

    def __call__(self, stage: str, fraction: float, note: str = "") -> None:
        """Say that ``fraction`` (0 to 1) of a stage is done."""
        if self._progress is None:
            return
        if stage not in self._tasks:
            self.finish()
            self._tasks[stage] = self._progress.add_task(stage, total=1.0, note="")
        self._progress.update(self._tasks[stage], completed=fraction, note=note)

    def detail(self, *lines: str) -> None:
        """Show lines below the bar in place of the last ones; where there is no bar, one line every ten seconds."""
        if self._progress is not None:
            self._progress.lines = [_printable(line) for line in lines]
        else:
            self.line("  ".join(lines))

    def line(self, text: str, *, at_once: bool = False) -> None:
        """Print a line where there is no bar: one every ten seconds, or each one with ``at_once``."""
        if self._in_lines and (at_once or time.monotonic() - self._said_at >= _SECONDS_BETWEEN_LINES):
            self._said_at = time.monotonic()
            errors.line(text)

    def warn(self, text: str) -> None:
        """One line that stays, above the bars."""
        if self._progress is not None or self._in_lines:
            _error_console.print(_printable(text), markup=False, style="yellow")

    def finish(self) -> None:
        """Say that all stages so far are done."""
        if self._progress is not None:
            self._progress.lines = []
        for task in self._tasks.values():
            self._progress.update(task, completed=1.0)


_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def stages(*, quiet: bool = False) -> Iterator[StageProgress]:
    """Progress bars on standard error for the time of a block; a line now and then where it is no terminal.

    Args:
        quiet: nothing at all.
    """
    if quiet or not _error_console.is_terminal:
        yield StageProgress(None, in_lines=not quiet)
        return
    with stage_bars(_error_console) as progress:
        drawn = StageProgress(progress)
        yield drawn
        drawn.finish()


def stage_bars(console: Console) -> Any:
    """Rich's progress with a bar a stage, and ``lines`` of text below it."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    class Bars(Progress):
        lines: Sequence[str] = ()

        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            for number, line in enumerate(self.lines):
                style = "dim" if number else "cyan"
                yield Text(f"{'':<13}{line}", no_wrap=True, overflow="ellipsis", style=style)

    return Bars(
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>4.0f}%"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
    )
