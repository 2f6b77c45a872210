"""What a Ray task does with a batch of documents: read, parse, clean, passages, generate, check, limit.

One row comes back for each document, several for an archive, with its examples and the counts of its steps. So nothing
is counted twice when Ray runs a task again, and the result doesn't depend on how the documents were spread.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.generation import GenerateByRules
from llamafarm_ray.data.rows import EXAMPLE_SCHEMA
from llamafarm_ray.data.sources import ReadFile, SourceFile, read_file
from llamafarm_ray.data.steps import (
    CheckLength,
    CheckSubstance,
    Clean,
    DetectLanguage,
    Ledger,
    LimitQuestions,
    SplitPassages,
    Step,
)

__all__ = ["FILE_SCHEMA", "RESULT_SCHEMA", "document_steps", "files_table", "process_documents"]

FILE_SCHEMA = pa.schema([("path", pa.string()), ("location", pa.binary())])
RESULT_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("digest", pa.string()),
        ("error", pa.string()),
        ("ignored", pa.string()),
        ("notes", pa.list_(pa.string())),
        ("counts", pa.string()),
        ("examples", pa.list_(pa.struct(list(EXAMPLE_SCHEMA)))),
    ]
)
"""``error`` is the reason to skip a document, empty if it was read; ``ignored`` the extension of a file in an archive
that no reader takes; ``notes`` are its reader's remarks; ``counts`` is a ledger as JSON."""


def files_table(files: Iterable[SourceFile]) -> pa.Table:
    """The input of :func:`process_documents`."""
    rows = [{"path": file.path, "location": file.location} for file in files]
    return pa.Table.from_pylist(rows, schema=FILE_SCHEMA)


def document_steps(config: DatasetConfig) -> tuple[Step[Any, Any], ...]:
    """The steps from a parsed document to its examples, in order."""
    filters, generation = config.quality_control.filters, config.preprocessing.qa_generation
    return (
        Clean(),
        DetectLanguage(),
        SplitPassages(config.preprocessing.passage_words),
        GenerateByRules(),
        CheckSubstance(),
        CheckLength(filters.minimum_length, filters.maximum_length),
        LimitQuestions(generation.questions_per_doc, generation.phrasings),
    )


def process_documents(files: pa.Table, *, config: DatasetConfig) -> pa.Table:
    """Turn a batch of ``FILE_SCHEMA`` into one of ``RESULT_SCHEMA``, a row for each document."""
    steps = document_steps(config)
    rows = [_process(read, steps) for file in files.to_pylist() for read in read_file(file["path"], file["location"])]
    return pa.Table.from_pylist(rows, schema=RESULT_SCHEMA)


def _process(read: ReadFile, steps: Sequence[Step[Any, Any]]) -> dict[str, Any]:
    ledger = Ledger()
    result = {
        "path": read.path,
        "digest": "",
        "error": read.error,
        "ignored": read.ignored,
        "notes": [],
        "counts": "{}",
        "examples": [],
    }
    if read.document is None:
        return result
    rows: Iterable[Any] = [read.document]
    for step in steps:
        rows = step.run(rows, ledger)
    examples = [example.build_row(position) for position, example in enumerate(rows)]
    return {
        **result,
        "digest": read.document.digest,
        "notes": list(read.document.notes),
        "counts": json.dumps(ledger.to_dict()),
        "examples": examples,
    }
