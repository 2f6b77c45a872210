"""Read a dataset's rows in this process: no Ray here."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llamafarm_ray.data.formats import RecordError, default_format
from llamafarm_ray.data.records import Records, find_records, named_beside, read_records
from llamafarm_ray.data.rows import DocumentRecord, dataset_digest, with_optional
from llamafarm_ray.data.split import prompt_digest, split_existing
from llamafarm_ray.data.training_rows import KINDS, RowKind, described, kind_of, parse_row
from llamafarm_ray.data.unused_fields import unused_fields
from llamafarm_ray.data.writing import DATASET_FILE, REPORT_FILE
from llamafarm_ray.errors import InputError, IntegrityError
from llamafarm_ray.storage.manifest import file_digest
from llamafarm_ray.types import Digest

__all__ = [
    "BuiltDataset",
    "DatasetRows",
    "RowResult",
    "built_documents",
    "describe_built",
    "is_built",
    "own_row",
    "parsed_record",
    "parsed_rows",
    "read_dataset",
    "shards_of",
]

Row = dict[str, Any]

EXPECTED = (
    "A record has 'messages', 'conversations', 'instruction' and 'output', 'prompt' and 'completion', or 'question' "
    "and 'answer'; docs/datasets.md lists all forms."
)


@dataclass(frozen=True, slots=True)
class DatasetRows:
    """The rows of a dataset.

    Args:
        rows: by split.
        digest: of all rows in the splits that the dataset itself has.
        documents: the documents they came from; of files that were not built here, the files themselves.
        passes: passes over the questions that the training rows are written in.
    """

    kind: RowKind
    rows: dict[str, list[Row]]
    schema: pa.Schema
    digest: Digest
    documents: list[DocumentRecord]
    passes: int = 1


@dataclass(frozen=True, slots=True)
class BuiltDataset:
    """The description of a built folder.

    Args:
        num_rows: by split.
        row_format: the format that the shards are written in.
        passes: passes over the questions that the training rows are written in.
    """

    digest: Digest
    num_rows: dict[str, int]
    documents: list[DocumentRecord]
    kind: RowKind
    row_format: str
    passes: int = 1

    @property
    def has_own_columns(self) -> bool:
        """Return True if the shards have the columns of the kind, False if each row is a record to parse."""
        return self.row_format == default_format(self.kind.name)


@dataclass(frozen=True, slots=True)
class RowResult:
    """A record after parsing: its rows, or the reason why there are none; and its fields that training does not use."""

    file: Path
    place: str
    kind: RowKind
    rows: list[Row]
    reason: str = ""
    unused: tuple[str, ...] = ()


def read_dataset(path: Path, *, split_ratio: float | None = None, seed: int = 0) -> DatasetRows:
    """Read a dataset of any layout: see `llamafarm_ray.data.open_dataset`.

    Raises:
        InputError: there is no dataset, a record is bad, or no rows can be held out.
        IntegrityError: a built folder doesn't hold what its ``dataset.json`` says.
    """
    read = _read_built(path) if is_built(path) else _read_records(path)
    every = read.rows["train"]
    if not split_ratio or "validation" in read.rows:
        return read
    named = is_built(path) or _name_documents(every, read.documents)
    known = [(row["id"], row["document"] if named else "", prompt_digest(row)) for row in every]
    held_out = split_existing(known, ratio=split_ratio, seed=seed).validation
    rows = {
        "train": [row for row in every if row["id"] not in held_out],
        "validation": [row for row in every if row["id"] in held_out],
    }
    return replace(read, rows=rows)


def _name_documents(rows: Sequence[Row], documents: Sequence[DocumentRecord]) -> bool:
    """Return True if the rows name source documents, not the files of examples that they were read from."""
    known = {document.path for document in documents}
    named = [row for row in rows if row["document"]]
    return bool(named) and all(row["passage"] and row["document"] in known for row in named)


def parsed_rows(records: Records, *, root: Path) -> Iterator[RowResult]:
    """Yield each record of a split parsed into rows with all columns; a bad one with its reason.

    Args:
        root: the folder that files are named relative to, as the documents of their rows.

    Raises:
        InputError: a file can't be read.
    """
    kind: RowKind | None = None
    digests: dict[Path, Digest] = {}
    for file, place, record in read_records(records):
        path = file.path
        if path not in digests:
            digests[path] = file_digest(path)
        result = parsed_record(record, kind, path.relative_to(root).as_posix(), digests[path], place=place)
        kind = kind or (None if result.reason else result.kind)
        yield replace(result, file=path)


def parsed_record(record: object, kind: RowKind | None, document: str, digest: Digest, *, place: str) -> RowResult:
    """Parse a record into rows with all columns, or the reason why it can't be used.

    Args:
        kind: of the rows before it; None if there are none.
        digest: of the file's bytes.
    """
    try:
        found, rows = parse_row(record, kind)
    except RecordError as error:
        return RowResult(Path(document), place, kind or kind_of(record), [], str(error))
    except RecursionError:
        return RowResult(Path(document), place, kind or kind_of(record), [], "is nested too deeply.")
    origin = _origin(record) or {"document": document, "document_digest": digest, "passage": ""}
    found_rows = [{**row, **origin} for row in rows]
    return RowResult(Path(document), place, kind or found, found_rows, unused=unused_fields(record, found.name, rows))


def _origin(record: object) -> dict[str, object] | None:
    """Return where a record came from, if it names a document and its digest as our own rows do."""
    if not isinstance(record, Mapping):
        return None
    document, digest, passage = (record.get(name) for name in ("document", "document_digest", "passage"))
    if not isinstance(document, str) or not isinstance(digest, str):
        return None
    try:
        known = Digest(digest)
    except InputError:
        return None
    passage = passage if isinstance(passage, str) else ""
    return {"document": document, "document_digest": known, "passage": passage, **_beside_source(record)}


def _beside_source(record: Mapping[str, object]) -> dict[str, object]:
    """Return the columns ``provenance`` and ``pii`` of a record, as far as they are what our own rows have."""
    provenance, pii = record.get("provenance"), record.get("pii")
    found: dict[str, object] = {}
    if isinstance(provenance, str) and _is_json_object(provenance):
        found["provenance"] = provenance
    if isinstance(pii, str):  # as a table of text holds it
        with contextlib.suppress(ValueError, RecursionError):
            pii = json.loads(pii)
    if isinstance(pii, list) and all(isinstance(kind, str) for kind in pii):
        found["pii"] = pii
    return found


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _read_records(path: Path) -> DatasetRows:
    splits = find_records(path)
    files = [file.path for records in splits.values() for file in records.files]
    whole = Path(str(path).rpartition("#")[0]) if not path.exists() else path
    root = whole if whole.is_dir() else Path(os.path.commonpath([file.parent for file in files]))
    rows: dict[str, list[Row]] = {}
    kinds: dict[str, RowKind] = {}
    for split, records in splits.items():
        rows[split] = []
        for result in parsed_rows(records, root=root):
            if result.reason:
                hint = EXPECTED
                if result.kind.name != "chat":
                    hint = f"A {result.kind.name} row has {described(result.kind)}; a dataset has one kind."
                raise InputError(f"{path}: {result.place} {result.reason}", hint=hint)
            rows[split] += result.rows
            kinds[split] = result.kind
    if not rows["train"]:
        raise InputError(f"{path} has no records.", hint=EXPECTED)
    if not rows.get("validation", True):
        del rows["validation"]
        kinds.pop("validation", None)
    if len({kind.name for kind in kinds.values()}) > 1:
        names = " and ".join(f"{split}: {kind.name}" for split, kind in kinds.items())
        raise InputError(
            f"{path}: its splits hold rows of different kinds ({names}).", hint="Write both in one format."
        )
    kind = kinds["train"]
    schema = with_optional(kind.schema, [row for of_split in rows.values() for row in of_split])
    documents, passes = _recorded(path, files) if len(files) <= len(rows) else ([], 1)
    return DatasetRows(kind, rows, schema, dataset_digest(rows), documents or _documents(rows), passes)


def _documents(rows: Mapping[str, Sequence[Row]]) -> list[DocumentRecord]:
    """Return the documents of the rows, in the order in which they first occur."""
    counts = Counter((row["document"], row["document_digest"]) for of_split in rows.values() for row in of_split)
    return [DocumentRecord(path, digest, count) for (path, digest), count in counts.items()]


def _recorded(path: Path, files: list[Path]) -> tuple[list[DocumentRecord], int]:
    """Return the source documents and the passes of a file that was built here and not changed; else none, and 1.

    They are in the report beside it.
    """
    try:
        report = json.loads(named_beside(path, REPORT_FILE.removesuffix(".json"), ".json").read_text(encoding="utf-8"))
        if report["files"] != {file.name: file_digest(file) for file in files}:
            return [], 1
        described_as = report["dataset"]
        return [DocumentRecord(**document) for document in described_as["documents"]], _passes(described_as)
    except (OSError, ValueError, KeyError, TypeError):
        return [], 1


def _passes(described_as: Mapping[str, object]) -> int:
    """Return the passes of a dataset; 1 for those that were built before there were several.

    Raises:
        ValueError: they are no number of passes.
    """
    passes = described_as.get("passes", 1)
    if not isinstance(passes, int) or passes < 1:
        raise ValueError(f"passes is {passes!r}")
    return passes


def is_built(path: Path) -> bool:
    """Return True if a folder has the description that a build writes, sound or not."""
    try:
        return not isinstance(json.loads((path / DATASET_FILE).read_text(encoding="utf-8")), list)
    except ValueError:
        return True
    except OSError:
        return False


def built_documents(path: Path) -> list[DocumentRecord]:
    """Return the source documents of the dataset that was built at ``path``, without reading its rows.

    Raises:
        InputError: ``path`` is a folder whose description can't be read.
    """
    if path.is_dir():
        return describe_built(path).documents
    return _recorded(path, [file.path for found in find_records(path).values() for file in found.files])[0]


def describe_built(path: Path) -> BuiltDataset:
    """Return the description of a built folder.

    Raises:
        InputError: it can't be read, or is none.
    """
    try:
        described_as = json.loads((path / DATASET_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path / DATASET_FILE} can't be read: {error}.") from error
    try:
        num_rows = {"train": described_as["num_train"], "validation": described_as["num_validation"]}
        documents = [DocumentRecord(**document) for document in described_as["documents"]]
        kind = KINDS[described_as.get("kind", "chat")]
        row_format = described_as.get("format") or default_format(kind.name)
        digest, passes = Digest(described_as["digest"]), _passes(described_as)
        return BuiltDataset(digest, num_rows, documents, kind, row_format, passes)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path / DATASET_FILE} is not the description of a dataset: {error}.") from error


def shards_of(folder: Path, num_rows: int) -> list[Path]:
    """Return the shards of a split of a built folder, once it is known that they hold all of its rows.

    Raises:
        IntegrityError: a shard can't be read, or rows are missing or too many.
    """
    shards = sorted(folder.glob("*.parquet"))
    try:
        found = sum(pq.read_metadata(shard).num_rows for shard in shards)
    except (OSError, pa.ArrowException) as error:
        raise IntegrityError(f"A shard in {str(folder)!r} can't be read: {error}.", hint="Build it again.") from error
    if found != num_rows:
        raise IntegrityError(
            f"{str(folder)!r} holds {found} rows, not the {num_rows} of {DATASET_FILE}.", hint="Build it again."
        )
    return shards if num_rows else []


def _read_built(path: Path) -> DatasetRows:
    built = describe_built(path)
    rows: dict[str, list[Row]] = {}
    for split, count in built.num_rows.items():
        tables = [pq.read_table(shard) for shard in shards_of(path / split, count)]
        read = [row for table in tables for row in table.to_pylist()]
        if read:
            rows[split] = [own_row(row, built) for row in read]
    if "train" not in rows:
        raise InputError(f"The dataset {str(path)!r} has no rows to train on.")
    schema = with_optional(built.kind.schema, [row for of_split in rows.values() for row in of_split])
    return DatasetRows(built.kind, rows, schema, built.digest, built.documents, built.passes)


def own_row(record: Row, built: BuiltDataset) -> Row:
    """Return a row of a shard with the columns of its kind, without fields that Arrow filled up."""
    if not built.has_own_columns:
        _, (row,) = parse_row(record, built.kind)
        source = {name: record[name] for name in ("document", "document_digest", "passage")}
        return {**row, **source, **_beside_source(record)}
    turns = record.get("messages")
    cleaned = {name: value for name, value in record.items() if name != "tools" or value}
    if turns is None:
        return cleaned
    messages = [
        {name: value for name, value in turn.items() if value not in (None, []) and (name, value) != ("train", True)}
        for turn in turns
    ]
    return {**cleaned, "messages": messages}
