"""Work on documents: read, parse, clean, split into passages, and with rules make and check their examples.

One row comes back for each document, several for an archive or a long document, with its examples (or, where a model
writes them, its passages) and the counts of its steps. So nothing is counted twice when Ray runs a task again, and the
result doesn't depend on how the documents were spread. Rows come back as they are made, in tables of a few MiB.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.config.sections.generation import PHRASINGS
from llamafarm_ray.data.coverage import covered_facts, fact_number, facts_of
from llamafarm_ray.data.generation.rules import GenerateByRules
from llamafarm_ray.data.generation.writer import Written
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.quality.filters import document_filters, example_filters, min_support, passage_filters
from llamafarm_ray.data.rows import EXAMPLE_SCHEMA, Example
from llamafarm_ray.data.sources import FileLimits, ReadFile, SourceFile, read_within
from llamafarm_ray.data.steps import (
    MIN_SUPPORT,
    CheckLength,
    CheckSubstance,
    CheckSupport,
    Clean,
    DetectLanguage,
    JoinTexts,
    Ledger,
    LimitQuestions,
    SplitPassages,
    Step,
)
from llamafarm_ray.text.refusals import is_not_said

__all__ = ["FILE_SCHEMA", "RESULT_SCHEMA", "examples_of", "files_table", "process_documents", "step_names"]

FILE_SCHEMA = pa.schema([("path", pa.string()), ("location", pa.binary())])
RESULT_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("is_last", pa.bool_()),
        ("path", pa.string()),
        ("digest", pa.string()),
        ("error", pa.string()),
        ("ignored", pa.string()),
        ("notes", pa.list_(pa.string())),
        ("counts", pa.string()),
        ("num_facts", pa.int64()),
        ("passages", pa.list_(pa.string())),
        ("examples", pa.list_(pa.struct(list(EXAMPLE_SCHEMA)))),
    ]
)
"""``file`` is the path of the source file and ``path`` that of a document in it; ``is_last`` marks the last row of a
file, and the examples or passages of a long document lie in several rows, of which the first has its other values.
``error`` is the reason to skip a document, empty if it was read; ``ignored`` the extension of a file in an
archive that no reader takes; ``notes`` are the reader's remarks; ``counts`` is a ledger as JSON. ``passages`` holds
each `Passage` as JSON where a model writes the examples, else nothing."""


_ROWS_OF_PASSAGES = 2000  # examples or passages in a row at most
_TABLE_BYTES = 8 * 1024 * 1024


def files_table(files: Iterable[SourceFile]) -> pa.Table:
    """The input of :func:`process_documents`."""
    rows = [{"path": file.path, "location": file.location} for file in files]
    return pa.Table.from_pylist(rows, schema=FILE_SCHEMA)


def step_names(config: DatasetConfig, *, by_rules: bool) -> tuple[str, ...]:
    """Return the names of the steps of a document, in the order in which they run."""
    made = _example_steps(config, (), by_rules=by_rules)
    return tuple(step.name for step in (*_passage_steps(config), *made))


def process_documents(files: pa.Table, *, config: DatasetConfig, by_rules: bool) -> Iterator[pa.Table]:
    """Turn a batch of ``FILE_SCHEMA`` into tables of ``RESULT_SCHEMA`` of a few MiB each."""
    rows: list[dict[str, object]] = []
    num_bytes = 0
    for file in files.to_pylist():
        for row in _rows_of_file(file, config, by_rules=by_rules):
            rows.append(row)
            num_bytes += _size(row)
            if num_bytes >= _TABLE_BYTES:
                yield pa.Table.from_pylist(rows, schema=RESULT_SCHEMA)
                rows, num_bytes = [], 0
    if rows:
        yield pa.Table.from_pylist(rows, schema=RESULT_SCHEMA)


def _size(row: Mapping[str, Any]) -> int:
    """Return about how many characters a row holds."""
    examples = sum(
        len(example["passage"]) + sum(len(turn["content"]) for turn in example["messages"])
        for example in row["examples"]
    )
    return examples + sum(map(len, row["passages"]))


def _rows_of_file(file: dict[str, Any], config: DatasetConfig, *, by_rules: bool) -> Iterator[dict[str, object]]:
    row: dict[str, object] | None = None
    limits = FileLimits(config.source.file_timeout_s, config.source.file_memory_mb * 1024 * 1024)
    for read in read_within(file["path"], file["location"], limits, config.source.ocr or ""):
        for part in _divided(_process(read, config, by_rules=by_rules)):
            if row is not None:
                yield row
            row = {"file": file["path"], "is_last": False, **part}
    if row is None:
        nothing = _process(ReadFile(file["path"], error="there is no document in it."), config, by_rules=by_rules)
        row = {"file": file["path"], **nothing}
    yield {**row, "is_last": True}


def _divided(result: dict[str, Any]) -> Iterator[dict[str, object]]:
    """Yield the result of a document, of a long one in parts; the first has its counts and notes."""
    examples, passages = result["examples"], result["passages"]
    more = {**result, "notes": [], "counts": "{}", "num_facts": 0}
    for start in range(0, max(1, len(examples), len(passages)), _ROWS_OF_PASSAGES):
        end = start + _ROWS_OF_PASSAGES
        yield {**(more if start else result), "examples": examples[start:end], "passages": passages[start:end]}


def _process(read: ReadFile, config: DatasetConfig, *, by_rules: bool) -> dict[str, object]:
    ledger = Ledger()
    result: dict[str, Any] = {"path": read.path, "digest": "", "error": read.error, "ignored": read.ignored}
    result |= {"notes": [], "counts": "{}", "num_facts": 0, "passages": [], "examples": []}
    if read.document is None:
        return result
    found = list(_run(_passage_steps(config), [read.document], ledger))
    passages = [replace(passage, num_passages=len(found)) for passage in found]
    result |= {"digest": read.document.digest, "notes": list(read.document.notes)}
    result["num_facts"] = sum(len(facts_of(passage.text)) for passage in passages)
    if by_rules:
        made = _example_steps(config, passages, by_rules=True)
        result["examples"] = _rows(_run(made, passages, ledger), passages)
    else:
        result["passages"] = [passage.to_json() for passage in passages]
    return {**result, "counts": json.dumps(ledger.to_dict())}


def examples_of(written: Mapping[Passage, Written], config: DatasetConfig, ledger: Ledger) -> list[dict[str, object]]:
    """Check the examples that a model wrote for a document, and return the rows of ``EXAMPLE_SCHEMA`` that stay.

    Args:
        written: the examples by passage, all passages of the document in order.
        ledger: takes the counts.
    """
    counts = ledger.counts(GenerateByRules.name)
    for result in written.values():
        counts.rows_in += 1
        counts.rows_out += len(result.examples)
        counts.dropped.update(result.dropped)
        if not result.examples and not result.dropped:
            counts.dropped["passage without a question"] += 1
    checks = _checks(config, written, by_rules=False)
    examples = [example for result in written.values() for example in result.examples]
    return _rows(_run(checks, examples, ledger), list(written))


def _passage_steps(config: DatasetConfig) -> tuple[Step[Any, Any], ...]:
    """Return the steps from a document to the passages that examples are made of."""
    quality, split = config.quality_control, SplitPassages(config.preprocessing.passage_words)
    return (Clean(), *document_filters(quality), DetectLanguage(), split, *passage_filters(quality))


def _example_steps(config: DatasetConfig, passages: Iterable[Passage], *, by_rules: bool) -> tuple[Step[Any, Any], ...]:
    """Return the steps from passages to examples: questions, or texts where no questions are asked for."""
    if config.preprocessing.qa_generation.enabled:
        return (GenerateByRules(), *_checks(config, passages, by_rules=by_rules))
    quality = config.quality_control
    length = CheckLength(quality.filters.minimum_length, quality.filters.maximum_length)
    return (JoinTexts(), length, *example_filters(quality))


def _checks(
    config: DatasetConfig, passages: Iterable[Passage], *, by_rules: bool
) -> tuple[Step[Example, Example], ...]:
    """Return the steps for the examples of a document; a model's answers are always checked against its passages."""
    quality, generation = config.quality_control, config.preprocessing.qa_generation
    least = min_support(quality)
    if least is None and not by_rules:
        least = MIN_SUPPORT
    support = () if least is None else (CheckSupport({passage.index: passage for passage in passages}, least),)
    return (
        CheckSubstance(),
        CheckLength(quality.filters.minimum_length, quality.filters.maximum_length),
        *support,
        *example_filters(quality),
        LimitQuestions(generation.questions_per_doc, generation.phrasings or (PHRASINGS if by_rules else None)),
    )


def _run(steps: Sequence[Step[Any, Any]], rows: Iterable[object], ledger: Ledger) -> Iterable[Any]:
    for step in steps:
        rows = step.run(rows, ledger)
    return rows


def _placed(example: Example, passage: Passage) -> Example:
    """Return an example with the place and the metadata of its passage."""
    if example.provenance is None:
        return example
    return replace(example, provenance=example.provenance.placed(passage))


def _rows(examples: Iterable[Example], passages: Iterable[Passage]) -> list[dict[str, Any]]:
    by_index = {passage.index: passage for passage in passages}
    facts = {index: facts_of(passage.text) for index, passage in by_index.items()}
    rows = []
    for position, example in enumerate(examples):
        index, answer = example.passage_index, "" if is_not_said(example.answer) else example.answer
        covered = covered_facts(facts[index], example.question, answer)
        covers = [fact_number(index, fact) for fact in covered]
        rows.append(_placed(example, by_index[index]).build_row(position, covers, by_index[index].pii))
    return rows
