"""``report.html``: an evaluation on one page, with its style and pictures inside."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.comparison import difference_text
from llamafarm_ray.evaluation.report.slices import slices, worst
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult
from llamafarm_ray.pages import asset, escaped, header, page, write_page

__all__ = ["ResultPage", "write_report"]

_MAX_WORST: Final = 20
_MAX_TEXT: Final = 600


@dataclass(frozen=True, slots=True)
class ResultPage:
    """The page of a result.

    Args:
        result: the scores, with the answers one by one where they are kept.
    """

    result: EvaluationResult

    def html(self) -> str:
        """Return the page."""
        return page(f"{self.result.model_id}: evaluation", self._parts(), css=asset(__package__, "style.css"))

    def _parts(self) -> Iterator[str]:
        result = self.result
        yield header(result.model_id, when=escaped(result.timestamp))
        for name, scores in result.scores():
            yield _benchmark(name, scores)
        yield _facts("RAG", result.rag_integration)
        yield _facts("Production", result.production_metrics)
        for name, members in _by_benchmark(result.answered):
            yield _slices(name, members)
            yield _worst(name, members)


def write_report(path: Path, result: ResultPage) -> None:
    """Write the page, whole or not at all.

    Raises:
        InputError: the file can't be written.
    """
    try:
        write_page(path, result.html())
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}.", hint="Choose another --report.") from None


def _by_benchmark(answered: Sequence[Answered]) -> Iterator[tuple[str, list[Answered]]]:
    ordered = sorted(answered, key=lambda one: one.benchmark)
    for name, members in itertools.groupby(ordered, key=lambda one: one.benchmark):
        yield name, list(members)


def _benchmark(name: str, scores: BenchmarkScores) -> str:
    counts = f"{scores.num_examples} examples" if scores.num_examples is not None else ""
    if scores.num_skipped:
        counts += f", {scores.num_skipped} left out"
    rows = [
        (
            metric,
            _number(value),
            _ends((scores.intervals or {}).get(metric)),
            _number((scores.baseline or {}).get(metric)),
            escaped(difference_text(scores.comparison or {}, metric)),
            _bars(value, (scores.baseline or {}).get(metric)),
        )
        for metric, value in scores.metrics.items()
    ]
    baseline = f"the baseline, {escaped(scores.compared_with)}" if scores.compared_with else "the baseline"
    change = f"<b>{escaped(scores.improvement)}</b> over {baseline}" if scores.improvement else ""
    said = (scores.method, scores.sample and f"Sample: {scores.sample}", scores.reason)
    caption = " · ".join(part for part in (counts, change, *(escaped(one) for one in said if one)) if part)
    return f"<h2>{escaped(name)}</h2><p>{caption}</p>" + _table(
        ("measure", "model", "95 %", "baseline", "difference", ""), rows
    )


def _ends(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{_number(ends[0])} to {_number(ends[1])}"


def _slices(name: str, members: Sequence[Answered]) -> str:
    rows = [
        (
            escaped(one.kind),
            escaped(one.name),
            str(one.num_answers),
            f"{one.score:.3f}",
            _number(one.baseline),
            _bars(one.score, one.baseline),
        )
        for one in slices(members)
    ]
    if not rows:
        return ""
    return f"<h2>{escaped(name)}: slices</h2>" + _table(("by", "group", "answers", "model", "baseline", ""), rows)


def _worst(name: str, members: Sequence[Answered]) -> str:
    rows = [
        (
            f"<code>{escaped(one.id)}</code> {_cut(one.prompt)}",
            _cut(" / ".join(one.accepted)),
            _cut(one.answer if not one.failure else f"{one.answer} ({one.failure})"),
            _cut(one.baseline_answer or ""),
            _number(one.score),
            _number(one.baseline_score),
        )
        for one in worst(members, _MAX_WORST)
    ]
    if not rows:
        return ""
    columns = ("question", "right", "model", "baseline", "score", "baseline's")
    return f"<h2>{escaped(name)}: worst answers</h2>" + _table(columns, rows)


def _facts(title: str, facts: Mapping[str, object] | None) -> str:
    if not facts:
        return ""
    rows = [(escaped(str(name)), escaped(str(value))) for name, value in facts.items()]
    return f"<h2>{escaped(title)}</h2>" + _table(("measure", "value"), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; cells are HTML."""
    head = "".join(f"<th>{escaped(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _bars(value: float, baseline: float | None) -> str:
    """Return a picture of two scores between 0 and 1; nothing for a score on another scale."""
    drawn = [("model", value), *([("base", baseline)] if baseline is not None else [])]
    if not all(0 <= one <= 1 for _, one in drawn):
        return ""
    bars = "".join(
        f'<rect class="{kind}" y="{number * 7}" width="{one * 160:.1f}" height="6"><title>{one:.3f}</title></rect>'
        for number, (kind, one) in enumerate(drawn)
    )
    return f'<svg viewBox="0 0 160 13" width="160" height="13" role="img">{bars}</svg>'


def _cut(text: str) -> str:
    return escaped(text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ...")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"
