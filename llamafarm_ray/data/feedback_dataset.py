"""Build a dataset from feedback: the records that ``POST /v1/feedback`` kept, as rows for ``dpo`` or ``kto``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llamafarm_ray import __version__
from llamafarm_ray.data.assembly import FORMAT_VERSION
from llamafarm_ray.data.feedback import Feedback, FeedbackRows, judgement_rows, preference_rows
from llamafarm_ray.data.formats import default_format
from llamafarm_ray.data.report import BuildReport, DocumentCounts, Lengths, Sample, StepReport, report_page
from llamafarm_ray.data.rows import DocumentRecord, dataset_digest
from llamafarm_ray.data.split import Split, choose_split
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.data.writing import FileTarget
from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest

__all__ = ["build_feedback_dataset", "rows_maker"]

_READ_AT_ONCE = 64
_NUM_SAMPLES = 5
_MAKERS: dict[str, Callable[[Iterable[Feedback]], FeedbackRows]] = {"dpo": preference_rows, "kto": judgement_rows}
_KINDS = {"dpo": "preference", "kto": "judgement"}

Row = dict[str, Any]


def rows_maker(objective: str) -> Callable[[Iterable[Feedback]], FeedbackRows]:
    """Return the maker of the rows that an objective trains on.

    Raises:
        UnsupportedError: none does.
    """
    if objective not in _MAKERS:
        raise UnsupportedError(
            f"Feedback makes no rows for fine_tuning.objective {objective}.", hint=f"Use {' or '.join(_MAKERS)}."
        )
    return _MAKERS[objective]


def build_feedback_dataset(
    source: str, output: Path, *, objective: str, ratio: float, seed: int, name: str, overwrite: bool = False
) -> tuple[BuildReport, list[DocumentRecord]]:
    """Make a dataset from the feedback below ``source``. The same feedback gives the same file.

    Args:
        source: a folder or fsspec URI, searched all the way down for ``.jsonl`` files: ``<home>/feedback``.
        output: the ``.json`` or ``.jsonl`` file to write; what is held out lies beside it.
        objective: ``dpo`` or ``kto``.
        ratio: share of the questions to hold out, 0 to 1.
        seed: decides which.
        name: the dataset's name, recorded in the report.
        overwrite: replace another dataset at ``output``.

    Returns:
        what became of the feedback, and its files: for each how many records it holds.

    Raises:
        InputError: there is no feedback, or none that gives a row; or a record is not sound.
        UnsupportedError: the objective is another.
        ConflictError: ``output`` exists with other content.
        StorageError: ``source`` can't be read, or ``output`` not written.
    """
    make = rows_maker(objective)
    kind = _KINDS[objective]
    target = FileTarget(output, default_format(kind), overwrite=overwrite, kind=kind)
    target.check()
    batches = list(_batches(source))
    if not batches:
        raise InputError(f"There is no feedback below {source!r}.", hint="POST /v1/feedback puts it there.")
    records = [record for batch in batches for record in batch.records]
    made = make(records)
    if not made.rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in made.num_dropped.items())
        raise InputError(f"None of {len(records)} records of feedback gives a row for {objective}: {reasons}.")
    questions = {row["id"]: _question(row) for row in made.rows}
    split = choose_split(((asked, asked) for asked in questions.values()), ratio=ratio, seed=seed)
    rows: dict[str, list[Row]] = {"train": [], "validation": []}
    for row in sorted(made.rows, key=lambda row: str(row["id"])):
        rows["validation" if questions[row["id"]] in split.validation else "train"].append(row)
    documents = [DocumentRecord(batch.name, batch.digest, len(batch.records)) for batch in batches]
    report = _report(rows, split, made, len(records), documents, name=name, output=output, seed=seed)
    with target.open():
        for side, of_side in rows.items():
            if of_side:
                target.add(side, of_side)
        target.finish(_description(report, documents), report.to_dict(), report_page(report))
        created = target.publish()
    return replace(report, created=created), documents


@dataclass(frozen=True, slots=True)
class _Batch:
    """A file of feedback."""

    name: str
    digest: Digest
    records: list[Feedback]


def _batches(source: str) -> Iterator[_Batch]:
    folder = Location(source)
    names = sorted(file.name for file in folder.walk() if file.name.endswith(".jsonl"))
    for first in range(0, len(names), _READ_AT_ONCE):
        some = names[first : first + _READ_AT_ONCE]
        for name, data in zip(some, folder.read_many(some), strict=True):
            if data is not None:
                yield _Batch(name, Digest.of(data), list(_records(f"{folder.uri}/{name}", data)))


def _records(where: str, data: bytes) -> Iterator[Feedback]:
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield Feedback.of(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, InputError) as error:
            raise InputError(f"{where}, line {number}, is no feedback: {error}.") from None


def _question(row: Row) -> str:
    """Return the question's digest: rows of one question are held out together."""
    turns = row["messages"][:-1] if "label" in row else row["messages"]
    return text_digest(part for turn in turns for part in (turn["role"], turn["content"]))


def _said(row: Row) -> tuple[str, str]:
    """The last question, and its (better) answer."""
    texts = [turn["content"] for turn in row["messages"]] + ([row["chosen"]] if "chosen" in row else [])
    return texts[-2], texts[-1]


def _report(
    rows: dict[str, list[Row]],
    split: Split,
    made: FeedbackRows,
    num_records: int,
    documents: list[DocumentRecord],
    *,
    name: str,
    output: Path,
    seed: int,
) -> BuildReport:
    said = [(side, *_said(row)) for side, of_side in rows.items() for row in of_side]
    lines = {
        side: [{"id": row["id"], "document": "", "document_digest": ""} for row in of_side]
        for side, of_side in rows.items()
    }
    return BuildReport(
        name=name,
        digest=dataset_digest(lines),
        output=str(output),
        seed=seed,
        created=True,
        documents=DocumentCounts(found=len(documents), read=len(documents), skipped=[], ignored={}),
        steps=[StepReport("feedback", num_records, len(made.rows), made.num_dropped)],
        num_train=len(rows["train"]),
        num_validation=len(rows["validation"]),
        held_out=split.held_out,
        question_chars=Lengths.of([len(question) for _, question, _ in said]),
        answer_chars=Lengths.of([len(answer) for *_, answer in said]),
        samples=[Sample(side, question, answer, "") for side, question, answer in said[:_NUM_SAMPLES]],
    )


def _description(report: BuildReport, documents: list[DocumentRecord]) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "name": report.name,
        "digest": report.digest,
        "seed": report.seed,
        "num_train": report.num_train,
        "num_validation": report.num_validation,
        "documents": [asdict(document) for document in documents],
        "created_with": __version__,
    }
