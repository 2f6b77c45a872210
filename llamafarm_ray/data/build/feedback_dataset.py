"""Build a dataset from feedback: the records that ``POST /v1/feedback`` kept, as rows for ``dpo`` or ``kto``.

The rows pass the same quality control as those that exist: see `llamafarm_ray.data.build.existing_rows`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build.applicable import check_kind, check_settings
from llamafarm_ray.data.build.assembly import description
from llamafarm_ray.data.build.examples import Examples
from llamafarm_ray.data.build.existing_rows import checked_examples
from llamafarm_ray.data.build.harvest import Harvest
from llamafarm_ray.data.feedback import Feedback, FeedbackRows, judgement_rows, preference_rows
from llamafarm_ray.data.formats import default_format
from llamafarm_ray.data.quality.decontamination import read_evaluation_texts
from llamafarm_ray.data.quality.metrics import DatasetMetrics, measure, require_goals
from llamafarm_ray.data.report import BuildReport, DocumentCounts, Lengths, Sample, StepReport, report_page
from llamafarm_ray.data.row_kinds import row_of_kind
from llamafarm_ray.data.rows import ROW_SCHEMA, DocumentRecord, dataset_digest
from llamafarm_ray.data.sources import SkippedDocument
from llamafarm_ray.data.split import Split, choose_split
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.data.writing import Target, target_for
from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest

__all__ = ["build_feedback_dataset", "check_feedback"]

_READ_AT_ONCE = 64
_NUM_SAMPLES = 5
_NO_FEEDBACK = "record that is no feedback"
_MAKERS: dict[str, Callable[[Iterable[Feedback]], FeedbackRows]] = {"dpo": preference_rows, "kto": judgement_rows}
_KINDS = {"dpo": "preference", "kto": "judgement"}

Row = dict[str, Any]

_NO_ORIGIN = {"document": "", "document_digest": Digest.of(b""), "passage": ""}
"""Origin of a row of feedback: it names no document."""


def _rows_maker(objective: str) -> Callable[[Iterable[Feedback]], FeedbackRows]:
    if objective not in _MAKERS:
        raise UnsupportedError(
            f"Feedback makes no rows for fine_tuning.objective {objective}.", hint=f"Use {' or '.join(_MAKERS)}."
        )
    return _MAKERS[objective]


def check_feedback(config: DatasetConfig, objective: str) -> None:
    """Refuse settings that mean nothing for rows made from feedback.

    Args:
        config: the ``dataset`` section of a configuration.

    Raises:
        UnsupportedError: no rows are made for this objective.
        InputError: naming the settings.
    """
    _rows_maker(objective)
    check_settings(config, from_rows=True)
    check_kind(config, _KINDS[objective])


def build_feedback_dataset(
    source: str,
    output: Path,
    config: DatasetConfig,
    *,
    objective: str,
    seed: int,
    name: str,
    overwrite: bool = False,
) -> tuple[BuildReport, list[DocumentRecord]]:
    """Make a dataset from the feedback below ``source``. The same feedback gives the same file.

    A record that is no feedback is left out, counted, and named in the report; a file without any other is skipped.

    Args:
        source: a folder or fsspec URI, searched all the way down for ``.jsonl`` files: ``<home>/feedback``.
        output: the ``.json`` or ``.jsonl`` file to write; what is held out lies beside it.
        config: quality control, the layout of the rows and the share of the questions to hold out; with
            ``source.strict`` the first record that is no feedback is an error.
        objective: ``dpo`` or ``kto``.
        seed: decides which questions are held out.
        overwrite: replace another dataset at ``output``.

    Returns:
        the outcome of the feedback, and its files with their numbers of records.

    Raises:
        InputError: there is no feedback, or none that gives a row; a record is none, if ``strict``; a setting means
            nothing for feedback; or the dataset misses a goal of ``quality_control``.
        UnsupportedError: the objective is another.
        ConflictError: ``output`` exists with other content.
        StorageError: ``source`` can't be read, or ``output`` not written.
    """
    check_feedback(config, objective)
    kind = _KINDS[objective]
    row_format = config.preprocessing.format or default_format(kind)
    target = target_for(output, row_format, overwrite=overwrite, kind=kind)
    target.check()
    batches = list(_batches(source, strict=config.source.strict))
    if not batches:
        raise InputError(f"There is no feedback below {source!r}.", hint="POST /v1/feedback puts it there.")
    made = _rows_maker(objective)([record for batch in batches for record in batch.records])
    if not made.rows:
        raise _no_rows(made, batches, objective)
    ledger = _counted(made, batches)
    kept, metrics = _checked(made.rows, kind, config, ledger)
    questions = {row["id"]: _question(row) for row in kept}
    ratio = config.validation.built_split_ratio
    split = choose_split(((asked, asked) for asked in questions.values()), ratio=ratio, seed=seed)
    rows = _sides(kept, questions, split)
    documents = [DocumentRecord(batch.name, batch.digest, len(batch.records)) for batch in batches if batch.records]
    report = _report(rows, split, ledger, batches, documents, name=name, output=output, seed=seed)
    return _write(target, rows, replace(report, metrics=metrics), documents), documents


def _write(
    target: Target, rows: Mapping[str, list[Row]], report: BuildReport, documents: list[DocumentRecord]
) -> BuildReport:
    """Write the rows of each side with the report, and return it as it was published."""
    with target.open():
        for side, of_side in rows.items():
            if of_side:
                target.add(side, of_side)
        target.finish(description(report, documents), report.to_dict(), report_page(report))
        return replace(report, created=target.publish())


def _sides(kept: Iterable[Row], questions: Mapping[str, str], split: Split) -> dict[str, list[Row]]:
    """Return the rows of each side, by their ids."""
    rows: dict[str, list[Row]] = {"train": [], "validation": []}
    for row in sorted(kept, key=lambda row: str(row["id"])):
        rows["validation" if questions[row["id"]] in split.validation else "train"].append(row)
    return rows


def _checked(rows: Iterable[Row], kind: str, config: DatasetConfig, ledger: Ledger) -> tuple[list[Row], DatasetMetrics]:
    """Return the rows that ``quality_control`` keeps, with personal data handled, and their metrics."""
    evaluation = read_evaluation_texts(config.quality_control.decontaminate)
    harvest = Harvest(ledger=ledger, local=True)
    made = [
        example.build_row(at, pii=changed["pii"])
        for at, row in enumerate(rows)
        for example, changed in checked_examples({**_NO_ORIGIN, **row}, kind, config, ledger)
    ]
    harvest.require_left(len(made))
    harvest.take_rows(made)
    examples = Examples(harvest, config.quality_control, evaluation)
    kept = [row_of_kind(row, kind) for row in examples.rows([*ROW_SCHEMA.names, "extra"], ledger)]
    harvest.require_left(len(kept))
    metrics = measure(examples.rows(["id", "messages", "passage"], Ledger()), config)
    require_goals(config, metrics)
    return kept, metrics


def _counted(made: FeedbackRows, batches: Sequence[_Batch]) -> Ledger:
    """Return the counts of making rows of feedback."""
    ledger = Ledger()
    step = ledger.counts("feedback")
    step.rows_in = sum(len(one.records) + len(one.bad) for one in batches)
    step.rows_out = len(made.rows)
    step.dropped.update(made.num_dropped)
    for batch in batches:
        for bad in batch.bad:
            step.dropped[_NO_FEEDBACK] += 1
            step.add_sample(_NO_FEEDBACK, f"{batch.name}, {bad}")
    return ledger


def _no_rows(made: FeedbackRows, batches: Sequence[_Batch], objective: str) -> InputError:
    num_records = sum(len(batch.records) for batch in batches)
    reasons = [f"{count} {reason}" for reason, count in made.num_dropped.items()]
    reasons += [f"{batch.name}, {batch.bad[0]}" for batch in batches if batch.bad][:3]
    return InputError(f"None of {num_records} records of feedback gives a row for {objective}: {', '.join(reasons)}.")


@dataclass(frozen=True, slots=True)
class _Batch:
    """A file of feedback.

    Args:
        digest: of its bytes.
        bad: place of each other record, and the reason.
    """

    name: str
    digest: Digest
    records: list[Feedback]
    bad: list[str]


def _batches(source: str, *, strict: bool) -> Iterator[_Batch]:
    folder = Location(source)
    names = sorted(file.name for file in folder.walk() if file.name.endswith(".jsonl"))
    for first in range(0, len(names), _READ_AT_ONCE):
        some = names[first : first + _READ_AT_ONCE]
        for name, data in zip(some, folder.read_many(some), strict=True):
            if data is not None:
                records = list(_records(data))
                bad = [record for record in records if isinstance(record, str)]
                if bad and strict:
                    raise InputError(
                        f"{folder.uri}/{name}, {bad[0]}",
                        hint="Repair or remove it, or set dataset.source.strict to false to leave it out.",
                    )
                sound = [record for record in records if isinstance(record, Feedback)]
                yield _Batch(name, Digest.of(data), sound, bad)


def _records(data: bytes) -> Iterator[Feedback | str]:
    """Yield the record of each line, or its place and the reason why it is none."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = Feedback.of(json.loads(line))
            json.dumps(asdict(record), ensure_ascii=False).encode()  # half a surrogate pair is no text
        except KeyError as error:
            yield f"line {number}, is no feedback: it has no {error}."
        except (ValueError, TypeError, AttributeError, RecursionError, InputError) as error:
            yield f"line {number}, is no feedback: {error}."
        else:
            yield record


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
    ledger: Ledger,
    batches: Sequence[_Batch],
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
    skipped = [SkippedDocument(one.name, _reason(one)) for one in batches if not one.records]
    return BuildReport(
        name=name,
        digest=dataset_digest(lines),
        output=str(output),
        seed=seed,
        created=True,
        documents=DocumentCounts(found=len(batches), read=len(documents), skipped=skipped, ignored={}),
        steps=[StepReport(step, **counts.to_dict()) for step, counts in ledger.steps.items()],
        num_train=len(rows["train"]),
        num_validation=len(rows["validation"]),
        held_out=split.held_out,
        question_chars=Lengths.of([len(question) for _, question, _ in said]),
        answer_chars=Lengths.of([len(answer) for *_, answer in said]),
        samples=[Sample(side, question, answer, "") for side, question, answer in said[:_NUM_SAMPLES]],
    )


def _reason(batch: _Batch) -> str:
    return f"none of its {len(batch.bad)} records can be used: {batch.bad[0]}" if batch.bad else "it is empty."
