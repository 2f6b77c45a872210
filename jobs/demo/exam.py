"""The demo's exam on a page: ten questions that nobody trained on, asked to the base and to the adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from llamafarm_ray.cli.terminal import facts, table

__all__ = ["COLUMNS", "right_answers", "show_exam"]

COLUMNS = {
    "base": ("closed_book", "baseline"),
    "base with retrieval": ("retrieved", "baseline"),
    "adapter": ("closed_book", "model"),
    "adapter with retrieval": ("retrieved", "model"),
}
"""Mode and side of each column, as the rows of an evaluation have them."""

_HEADINGS = ("base", "+ passages", "adapter", "+ passages", "question")
"""Those of the table, short enough for a terminal of 80 characters; passages are what retrieval brings."""
_MARKS = {True: Text("right", style="bold green"), False: Text("wrong", style="dim")}


def right_answers(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the number of right answers of each column."""
    return {name: sum(_is_right(row, name) for row in rows) for name in COLUMNS}


def show_exam(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print right and wrong side by side, then the four answers to the first question that they differ about.

    Args:
        rows: an evaluation's questions, with the answers in each mode.
    """
    marked = [(*(_MARKS[_is_right(row, name)] for name in COLUMNS), row["question"]) for row in rows]
    totals = (*(str(number) for number in right_answers(rows).values()), f"right of {len(rows)}")
    table("Ten questions that nobody trained on", _HEADINGS, [*marked, totals], whole=_HEADINGS[:4])
    telling = next((row for row in rows if len({_is_right(row, name) for name in COLUMNS}) > 1), rows[0])
    facts(f"{telling['question']} ({telling['answers'][0]})", [(name, _answer(telling, name)) for name in COLUMNS])


def _is_right(row: Mapping[str, Any], column: str) -> bool:
    mode, side = COLUMNS[column]
    return bool(row.get(mode, {}).get(side, {}).get("accuracy"))


def _answer(row: Mapping[str, Any], column: str) -> str:
    mode, side = COLUMNS[column]
    return str(row.get(mode, {}).get(side, {}).get("answer", ""))
