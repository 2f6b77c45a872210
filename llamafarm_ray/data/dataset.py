"""Open a dataset: a built folder, or a ``.json``/``.jsonl`` file of examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data

from llamafarm_ray.data.formats import JSON_SUFFIXES, read_messages
from llamafarm_ray.data.ray_data import quiet_ray_data, require_cluster
from llamafarm_ray.data.rows import ROW_SCHEMA, DocumentRecord, Example, Message, dataset_digest, with_marks
from llamafarm_ray.data.split import hold_out, prompt_digest
from llamafarm_ray.data.training_rows import read_rows
from llamafarm_ray.data.writing import DATASET_FILE, REPORT_FILE, validation_path
from llamafarm_ray.errors import InputError, IntegrityError
from llamafarm_ray.types import Digest

__all__ = ["Splits", "built_documents", "check_dataset", "open_dataset"]


@dataclass(frozen=True)
class Splits:
    """An open dataset; its rows have the columns id, messages, document, document_digest and passage.

    Rows of other kinds than conversations have the columns of their `RowKind`.

    Args:
        train: the rows to train on.
        validation: the rows held out; None if there are none.
        digest: digest of the rows, and of the split that the dataset itself has.
        documents: the documents they came from; for a file of examples that was not built here, the file itself.
    """

    train: ray.data.Dataset
    validation: ray.data.Dataset | None
    digest: str
    documents: list[DocumentRecord]


def open_dataset(path: Path, *, split_ratio: float | None = None, seed: int = 0) -> Splits:
    """Open the dataset at ``path``: a folder that was built, or a file in alpaca, sharegpt or chatml format.

    A file may have rows of another kind too, with columns of their own: see `llamafarm_ray.data.training_rows`.

    Args:
        path: the folder or file.
        split_ratio: share of the rows to hold out where the dataset has no validation rows of its own; a built folder
            may have some, and beside a file ``qa.json``, ``qa.validation.json`` holds them. None or 0: no rows.
        seed: chooses the rows that are held out.

    Raises:
        InputError: there is no dataset, a record of the file is bad, or no rows can be held out.
        IntegrityError: the folder doesn't hold what its ``dataset.json`` says.
        ClusterError: Ray is not running.
    """
    require_cluster()
    _check_path(path)
    return _open_folder(path, split_ratio, seed) if path.is_dir() else _open_json(path, split_ratio, seed)


def check_dataset(path: Path, *, split_ratio: float | None = None, seed: int = 0) -> bool:
    """Check a dataset without Ray: read a file's records, or a folder's description.

    Args:
        path: see `open_dataset`.
        split_ratio: likewise.
        seed: likewise.

    Returns:
        True if it has validation rows, or some will be held out.

    Raises:
        InputError: see `open_dataset`.
    """
    _check_path(path)
    if path.is_dir():
        return bool(_describe(path)[1]["validation"] or split_ratio)
    return "validation" in _read_json(path, split_ratio, seed).rows


def built_documents(path: Path) -> list[DocumentRecord]:
    """Return the source documents of the dataset that was built at ``path``, without Ray."""
    if path.is_dir():
        return _describe(path)[2]
    beside = validation_path(path)
    return _recorded_documents(path, [path, *([beside] if beside.is_file() else [])])


def _check_path(path: Path) -> None:
    if not path.exists():
        raise InputError(f"There is no dataset at {str(path)!r}.")
    if not path.is_dir() and path.suffix.lower() not in JSON_SUFFIXES:
        raise InputError(f"{str(path)!r} is no dataset.", hint="A dataset is a built folder, a .json or a .jsonl file.")


def _describe(path: Path) -> tuple[Digest, dict[str, int], list[DocumentRecord]]:
    """Return a built folder's digest, the number of rows of its splits, and its documents."""
    try:
        described = json.loads((path / DATASET_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{str(path)!r} is no dataset: it has no {DATASET_FILE}.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path / DATASET_FILE} can't be read: {error}.") from error
    try:
        num_rows = {"train": described["num_train"], "validation": described["num_validation"]}
        documents = [DocumentRecord(**document) for document in described["documents"]]
        return Digest(described["digest"]), num_rows, documents
    except (KeyError, TypeError) as error:
        raise InputError(f"{path / DATASET_FILE} is not the description of a dataset: {error}.") from error


def _open_folder(path: Path, split_ratio: float | None, seed: int) -> Splits:
    digest, num_rows, documents = _describe(path)
    splits = {split: _open_split(path / split, count) for split, count in num_rows.items()}
    train, validation = splits["train"], splits["validation"]
    if train is None:
        raise InputError(f"The dataset {str(path)!r} has no rows to train on.")
    if validation is None and split_ratio:
        train, validation = _split(train, split_ratio, seed)
    return Splits(train, validation, digest, documents)


def _split(rows: ray.data.Dataset, ratio: float, seed: int) -> tuple[ray.data.Dataset, ray.data.Dataset]:
    """Split the rows of a folder, whose ids and prompts alone come to this process."""
    with quiet_ray_data():
        prompts = rows.map_batches(_prompts, batch_format="pyarrow").take_all()
        held_out = hold_out(((row["id"], row["prompt"]) for row in prompts), ratio=ratio, seed=seed)
        ids = pa.array(sorted(held_out))
        train, validation = (
            rows.map_batches(_with_ids, batch_format="pyarrow", fn_kwargs={"ids": ids, "inside": inside}).materialize()
            for inside in (False, True)
        )
    return train, validation


def _prompts(block: pa.Table) -> pa.Table:
    rows = block.to_pylist()
    return pa.table({"id": [row["id"] for row in rows], "prompt": [prompt_digest(row) for row in rows]})


def _with_ids(block: pa.Table, *, ids: pa.Array, inside: bool) -> pa.Table:
    found = pc.is_in(block.column("id"), value_set=ids)
    return block.filter(found if inside else pc.invert(found))


def _open_split(folder: Path, num_rows: int) -> ray.data.Dataset | None:
    shards = sorted(folder.glob("*.parquet"))
    try:
        found = sum(pq.read_metadata(shard).num_rows for shard in shards)
    except (OSError, pa.ArrowException) as error:
        raise IntegrityError(f"A shard in {str(folder)!r} can't be read: {error}.", hint="Build it again.") from error
    if found != num_rows:
        raise IntegrityError(
            f"{str(folder)!r} holds {found} rows, not the {num_rows} of {DATASET_FILE}.", hint="Build it again."
        )
    if not shards or not num_rows:
        return None
    with quiet_ray_data():
        return ray.data.read_parquet([str(shard.resolve()) for shard in shards])


@dataclass(frozen=True, slots=True)
class _JsonRows:
    """The rows of a file and of the validation file beside it.

    Args:
        rows: by split.
        schema: their columns.
        digest: of all rows in the splits that the files have.
        documents: the documents they came from.
    """

    rows: dict[str, list[dict[str, Any]]]
    schema: pa.Schema
    digest: Digest
    documents: list[DocumentRecord]


def _open_json(path: Path, split_ratio: float | None, seed: int) -> Splits:
    found = _read_json(path, split_ratio, seed)
    tables = {split: pa.Table.from_pylist(of_split, schema=found.schema) for split, of_split in found.rows.items()}
    with quiet_ray_data():
        datasets = {split: ray.data.from_arrow(table) for split, table in tables.items()}
    return Splits(datasets["train"], datasets.get("validation"), found.digest, found.documents)


def _read_json(path: Path, split_ratio: float | None, seed: int) -> _JsonRows:
    beside = validation_path(path)
    files = {"train": path} | ({"validation": beside} if beside.is_file() else {})
    read = {split: _rows(file) for split, file in files.items()}
    rows = {split: of_split for split, (_, of_split) in read.items()}
    schemas = [schema for schema, _ in read.values()]
    if any(schema != schemas[0] for schema in schemas):
        raise InputError(f"{beside} holds rows of another kind than {path.name}.", hint="Write both in one format.")
    documents = _recorded_documents(path, list(files.values())) or [
        DocumentRecord(file.name, rows[split][0]["document_digest"], len(rows[split])) for split, file in files.items()
    ]
    digest = dataset_digest(rows)
    if split_ratio and "validation" not in rows:
        every = rows["train"]
        held_out = hold_out(((row["id"], prompt_digest(row)) for row in every), ratio=split_ratio, seed=seed)
        rows = {
            "train": [row for row in every if row["id"] not in held_out],
            "validation": [row for row in every if row["id"] in held_out],
        }
    schema = with_marks(schemas[0], [row for of_split in rows.values() for row in of_split])
    return _JsonRows(rows, schema, digest, documents)


def _rows(file: Path) -> tuple[pa.Schema, list[dict[str, Any]]]:
    digest = Digest.of(file.read_bytes())
    special = read_rows(file)
    if special is None:
        return ROW_SCHEMA, [_row(messages, file.name, digest) for messages in read_messages(file)]
    kind, rows = special
    return kind.schema, [{**row, "document": file.name, "document_digest": digest, "passage": ""} for row in rows]


def _row(messages: Sequence[Message], document: str, digest: Digest) -> dict[str, Any]:
    return Example(tuple(messages), document, digest, passage="").row()


def _recorded_documents(path: Path, files: list[Path]) -> list[DocumentRecord]:
    """The source documents, from the report beside a file that was built here and not changed since; else none."""
    try:
        report = json.loads(path.with_name(f"{path.stem}.{REPORT_FILE}").read_text(encoding="utf-8"))
        if report["files"] != {file.name: Digest.of(file.read_bytes()) for file in files}:
            return []
        return [DocumentRecord(**document) for document in report["dataset"]["documents"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
