"""What a Ray task does with a batch of documents: read, parse, clean, passages, generate, check, limit.

One row comes back for each document, with its examples and the counts of its steps. So nothing is counted twice when
Ray runs a task again, and the result doesn't depend on how the documents were spread.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.generation import GenerateByRules
from llamafarm_ray.data.readers import MAX_DOCUMENT_BYTES, DocumentError, reader_for
from llamafarm_ray.data.readers.base import BrokenDocumentError
from llamafarm_ray.data.rows import EXAMPLE_SCHEMA, ParsedDocument
from llamafarm_ray.data.sources import SourceFile
from llamafarm_ray.data.steps import CheckLength, CheckSubstance, Clean, DetectLanguage, Ledger, LimitQuestions, SplitPassages, Step

__all__ = ["FILE_SCHEMA", "RESULT_SCHEMA", "document_steps", "files_table", "process_documents"]

FILE_SCHEMA = pa.schema([("path", pa.string()), ("location", pa.binary())])
RESULT_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("digest", pa.string()),
        ("error", pa.string()),
        ("notes", pa.list_(pa.string())),
        ("counts", pa.string()),
        ("examples", pa.list_(pa.struct(list(EXAMPLE_SCHEMA)))),
    ]
)
"""``error`` is why the document was skipped, empty if it was read; ``notes`` are its reader's remarks; ``counts`` is a
ledger as JSON."""


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
    """Turn a batch of ``FILE_SCHEMA`` into one of ``RESULT_SCHEMA``, row by row."""
    steps = document_steps(config)
    return pa.Table.from_pylist([_process(file, steps) for file in files.to_pylist()], schema=RESULT_SCHEMA)


def _process(file: dict[str, Any], steps: Sequence[Step[Any, Any]]) -> dict[str, Any]:
    ledger = Ledger()
    try:
        document = _read(file["path"], Path(os.fsdecode(file["location"])))
    except DocumentError as error:
        return {"path": file["path"], "digest": "", "error": str(error), "notes": [], "counts": "{}", "examples": []}
    rows: Iterable[Any] = [document]
    for step in steps:
        rows = step.run(rows, ledger)
    examples = [example.build_row(position) for position, example in enumerate(rows)]
    counts = json.dumps(ledger.to_dict())
    return {
        "path": file["path"],
        "digest": document.digest,
        "error": "",
        "notes": list(document.notes),
        "counts": counts,
        "examples": examples,
    }


def _read(path: str, location: Path) -> ParsedDocument:
    reader = reader_for(location)
    if reader is None:  # pragma: no cover  discover() gives only files that have one
        raise DocumentError("there is no reader for its type.")
    try:
        with location.open("rb") as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)  # it may have grown since it was listed
    except OSError as error:
        raise DocumentError(f"it can't be read: {error.strerror}.") from error
    try:
        return reader.read(data, path)
    except DocumentError:
        raise
    # The boundary of the process: parsers meet hostile bytes here, and one document must not end a build of thousands.
    except Exception as error:
        raise BrokenDocumentError(
            f"the {reader.name} reader failed on it ({type(error).__name__}: {error})."
        ) from error
