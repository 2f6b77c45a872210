"""``report.html``: a build on one page, with style and pictures inside, the same bytes for the same build."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final

from llamafarm_ray.data.report.build import BuildReport, Lengths, StepReport
from llamafarm_ray.pages import Bar, bars, bullets, columns, escaped, header, page, tiles

__all__ = ["report_page"]

_MAX_BARS: Final = 15
_MAX_ROWS: Final = 200
_MAX_TEXT: Final = 400
_DUPLICATES: Final = {"deduplicate": "exact duplicates", "near_duplicates": "near duplicates"}


def report_page(report: BuildReport, *, coverage_by_document: bool = False) -> str:
    """Return the page of a build.

    Args:
        coverage_by_document: list all documents with their facts and those that are taught, least taught first.
    """
    coverage = _coverage(report) if coverage_by_document else ""
    return page(f"{report.name}: dataset", itertools.chain(_parts(report), [coverage]), css=_CSS)


_CSS: Final = """td.text { min-width: 220px; white-space: pre-line; }
.dropped td:first-child, .dropped td:nth-child(2) { white-space: nowrap; }
"""


def _parts(report: BuildReport) -> Iterator[str]:
    yield header(report.name, when=f"<code>{escaped(report.digest[:19])}</code> · seed {report.seed}")
    yield tiles(_numbers(report))
    if report.generator is not None:
        model = f" ({report.generator.model})" if report.generator.model else ""
        yield f"<p>Pairs by {escaped(report.generator.name)}{escaped(model)}: {escaped(report.generator.reason)}</p>"
    charts = "\n".join(chart for chart in _charts(report) if chart)
    yield f'<section class="charts">{charts}</section>' if charts else ""
    yield _steps(report.steps)
    kept = [(one.split, _cut(one.question), _cut(one.answer), escaped(one.document)) for one in report.samples]
    yield _table("Examples that were kept", ("split", "question", "answer", "document"), kept)
    yield _table("Samples of what was dropped", ("step", "reason", "sample"), _dropped(report.steps), css="dropped")
    yield _table("Samples of what was noted", ("step", "note", "sample"), _noted(report.steps), css="dropped")
    skipped = [(escaped(one.path), escaped(one.reason)) for one in report.documents.skipped]
    yield _table("Documents that were skipped", ("document", "reason"), skipped)
    notes = [(escaped(path), escaped("; ".join(lines))) for path, lines in report.documents.notes.items()]
    yield _table("Remarks about documents", ("document", "remark"), notes)
    ignored = [f"{count:,} of type {kind}" for kind, count in report.documents.ignored.items()]
    yield bullets("Files of other types", ignored)


def _coverage(report: BuildReport) -> str:
    found = report.coverage.documents.items() if report.coverage is not None else ()
    with_facts = [(path, taught, facts) for path, (taught, facts) in found if facts]
    ordered = sorted(with_facts, key=lambda one: (one[1] / one[2], -one[2], one[0]))
    rows = [(escaped(path), f"{taught:,}", f"{facts:,}", f"{taught / facts:.0%}") for path, taught, facts in ordered]
    return _table("Coverage of documents, least first", ("document", "facts taught", "facts", "share"), rows)


def _numbers(report: BuildReport) -> Iterator[tuple[str, str]]:
    yield f"{report.documents.read:,}", "documents read"
    if report.documents.skipped:
        yield f"{len(report.documents.skipped):,}", "skipped"
    yield f"{report.num_train:,}", "rows to train on"
    yield f"{report.num_validation:,}", f"held out ({report.held_out})" if report.num_validation else "held out"
    if report.coverage is not None:
        yield f"{report.coverage.share:.0%}", f"of {report.coverage.num_facts:,} facts are taught"
    for name, value in (("diversity", report.metrics.diversity), ("quality", report.metrics.quality)):
        if value is not None:
            yield f"{value:.2f}", name


def _charts(report: BuildReport) -> Iterator[str]:
    yield _lengths("Lengths of questions", report.question_chars)
    yield _lengths("Lengths of answers", report.answer_chars)
    paths = report.coverage.documents if report.coverage is not None else {}
    yield bars("Sources by type", _largest(Counter(PurePosixPath(path).suffix or "no extension" for path in paths)))
    yield bars("Languages of documents", _largest(_languages(report.steps)))
    reasons = Counter({f"{_word(step.name)}: {why}": n for step in report.steps for why, n in step.dropped.items()})
    yield bars("Dropped, by reason", [Bar(bar.name, bar.value, css="bad") for bar in _largest(reasons)])
    yield bars("Duplicates", _duplicates(report.steps))
    taught = sorted(paths.items(), key=lambda item: (-item[1][0], item[0]))[:_MAX_BARS]
    yield bars("Facts taught, by document", [Bar(path, covered, f"of {facts:,}") for path, (covered, facts) in taught])


def _lengths(title: str, lengths: Lengths) -> str:
    caption = f"median {lengths.median:,g}, longest {lengths.max:,}"
    if lengths.num_longer:
        caption += f" ({lengths.num_longer:,} longer ones not shown)"
    return columns(title, lengths.bins, first=0, width=lengths.bin_chars, unit="characters", caption=caption)


def _languages(steps: Sequence[StepReport]) -> Counter[str]:
    return Counter(next((step.noted for step in steps if step.name == "language"), {}))


def _duplicates(steps: Sequence[StepReport]) -> list[Bar]:
    found = [step for step in steps if step.name in _DUPLICATES]
    if not found:
        return []
    dropped = [Bar(_DUPLICATES[step.name], sum(step.dropped.values()), css="bad") for step in found]
    return [Bar("unique rows", found[-1].rows_out), *dropped]


def _largest(counts: Counter[str]) -> list[Bar]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [Bar(name, count) for name, count in ordered[:_MAX_BARS]]
    rest = sum(count for _, count in ordered[_MAX_BARS:])
    return [*shown, Bar(f"{len(ordered) - _MAX_BARS} more", rest)] if rest else shown


def _steps(steps: Sequence[StepReport]) -> str:
    rows = "".join(
        f'<tr><td>{escaped(_word(step.name))}</td><td class="number">{step.rows_in:,}</td>'
        f'<td class="number">{step.rows_out:,}</td><td class="number">{sum(step.dropped.values()):,}</td></tr>'
        for step in steps
    )
    heads = "".join(f'<th class="number">{name}</th>' for name in ("in", "out", "dropped"))
    return f"<h2>Steps</h2><table><thead><tr><th>step</th>{heads}</tr></thead>{rows}</table>"


def _dropped(steps: Sequence[StepReport]) -> list[tuple[str, str, str]]:
    return [row for step in steps for row in _samples(step, step.dropped)]


def _noted(steps: Sequence[StepReport]) -> list[tuple[str, str, str]]:
    return [row for step in steps for row in _samples(step, step.noted)]


def _samples(step: StepReport, reasons: dict[str, int]) -> Iterator[tuple[str, str, str]]:
    for reason in reasons:
        for sample in step.samples.get(reason, ()):
            yield escaped(_word(step.name)), escaped(reason), _cut(sample)


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]], *, css: str = "") -> str:
    """Return a table of cells that are HTML; nothing without rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{escaped(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f'<td class="text">{cell}</td>' for cell in row) + "</tr>" for row in rows[:_MAX_ROWS]
    )
    more = f"<p>{len(rows) - _MAX_ROWS:,} more are in the JSON report.</p>" if len(rows) > _MAX_ROWS else ""
    return (
        f'<h2>{escaped(title)}</h2><div class="scroll"><table class="{css}"><thead><tr>{head}</tr></thead>{body}'
        f"</table></div>{more}"
    )


def _word(name: str) -> str:
    return name.replace("_", " ")


def _cut(text: str) -> str:
    return escaped(text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…")
