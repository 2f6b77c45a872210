"""What people see: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llamafarm_ray.errors import LlamaFarmError

__all__ = ["StageProgress", "console", "errors", "is_json", "print_json", "stages", "table"]

console = Console(highlight=False, soft_wrap=True)
_error_console = Console(stderr=True, highlight=False, soft_wrap=True)


def is_json(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for JSON."""
    return "--json" in arguments


def print_json(value: Any) -> None:
    """A result for programs: one JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


class _Errors:
    def line(self, text: str) -> None:
        """One line on standard error."""
        _error_console.print(text, markup=False)

    def show(self, error: LlamaFarmError, *, as_json: bool) -> None:
        """An error for people (what, which value, what to do) or for programs (the same with its code)."""
        if as_json:
            body = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
            sys.stderr.write(json.dumps(body, ensure_ascii=False) + "\n")
            return
        _error_console.print(f"[bold red]error[/] [dim]{error.code}[/]", end=" ")
        _error_console.print(error.message, markup=False, end=" " if error.hint else "\n")
        if error.hint:
            _error_console.print(error.hint, markup=False, style="yellow")


errors = _Errors()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output; the first column names the row and is never broken."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold cyan", box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        made.add_row(*(escape(str(cell)) for cell in row))
    console.print(made)


class StageProgress:
    """One bar a stage of a workflow."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def __call__(self, stage: str, fraction: float, note: str = "") -> None:
        """Say that ``fraction`` (0 to 1) of a stage is done."""
        if self._progress is None:
            return
        if stage not in self._tasks:
            self.finish()
            self._tasks[stage] = self._progress.add_task(stage, total=1.0, note="")
        self._progress.update(self._tasks[stage], completed=fraction, note=note)

    def finish(self) -> None:
        """Say that all stages so far are done."""
        for task in self._tasks.values():
            self._progress.update(task, completed=1.0)


@contextmanager
def stages(*, quiet: bool = False) -> Iterator[StageProgress]:
    """Progress bars on standard error for the time of a block; nothing where it is no terminal or ``quiet``."""
    if quiet or not _error_console.is_terminal:
        yield StageProgress(None)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>4.0f}%"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=_error_console) as progress:
        drawn = StageProgress(progress)
        yield drawn
        drawn.finish()
