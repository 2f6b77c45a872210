"""Open a dataset on Ray Data: a built folder, or rows that were made elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data

from llamafarm_ray.capacity import is_on_one_machine
from llamafarm_ray.data.formats.images import refuse_images
from llamafarm_ray.data.ray_data import quiet_ray_data, require_cluster
from llamafarm_ray.data.reading import (
    BuiltDataset,
    describe_built,
    is_built,
    own_row,
    read_dataset,
    shards_of,
)
from llamafarm_ray.data.rows import DocumentRecord, with_optional
from llamafarm_ray.data.split import prompt_digest, split_existing
from llamafarm_ray.errors import InputError

__all__ = ["Splits", "check_dataset", "open_dataset"]

_SMALL_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Splits:
    """An open dataset; its rows have the columns id, messages, document, document_digest and passage.

    Rows of other kinds than conversations have the columns of their `RowKind`.

    Args:
        validation: the rows held out; None if there are none.
        digest: digest of the rows, and of the split that the dataset itself has.
        documents: the documents they came from; for a file of examples that was not built here, the file itself.
        passes: passes over the questions that the training rows are written in: an epoch is as many.
    """

    train: ray.data.Dataset
    validation: ray.data.Dataset | None
    digest: str
    documents: list[DocumentRecord]
    passes: int = 1


def open_dataset(path: Path, *, split_ratio: float | None = None, seed: int = 0) -> Splits:
    """Open the dataset at ``path``.

    Args:
        path: a built folder; a file of examples, plain or compressed; a folder of `datasets` or of shards; ``#`` and a
            name after it choose a split, or an entry of LLaMA-Factory's ``dataset_info.json``; or an Axolotl
            configuration with ``datasets``. See `llamafarm_ray.data.records` and `llamafarm_ray.data.training_rows`.
        split_ratio: share of the rows to hold out where the dataset has no validation rows of its own; a folder
            may have some, and beside a file ``qa.json``, ``qa.validation.json`` holds them. None or 0: no rows.
            They are chosen by source document, or by prompt: see `split_existing`.
        seed: chooses the rows that are held out.

    Raises:
        InputError: there is no dataset, a record of a file is bad, or no rows can be held out.
        IntegrityError: the folder doesn't hold what its ``dataset.json`` says.
        ClusterError: Ray is not running.
    """
    require_cluster()
    if is_built(path):
        return _open_folder(path, split_ratio, seed)
    found = read_dataset(path, split_ratio=split_ratio, seed=seed)
    _refuse_images(found.rows, path)
    tables = {split: pa.Table.from_pylist(of_split, schema=found.schema) for split, of_split in found.rows.items()}
    with quiet_ray_data():
        datasets = {split: ray.data.from_blocks([table]) for split, table in tables.items()}
    return Splits(datasets["train"], datasets.get("validation"), found.digest, found.documents, found.passes)


def check_dataset(path: Path, *, split_ratio: float | None = None, seed: int = 0) -> bool:
    """Check a dataset without Ray: read a file's records, or a built folder's description.

    Args:
        path: see `open_dataset`.
        split_ratio: likewise.
        seed: likewise.

    Returns:
        True if it has validation rows, or some will be held out.

    Raises:
        InputError: see `open_dataset`.
    """
    if is_built(path):
        built = describe_built(path)
        _refuse_images_in_shards(path, built)
        return bool(built.num_rows["validation"] or split_ratio)
    found = read_dataset(path, split_ratio=split_ratio, seed=seed)
    _refuse_images(found.rows, path)
    return "validation" in found.rows


def _refuse_images(rows: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    for row in (row for of_split in rows.values() for row in of_split):
        refuse_images(row.get("messages") or (), str(path))


def _refuse_images_in_shards(path: Path, built: BuiltDataset) -> None:
    """Refuse a built folder with images; only shards with a column for them are read."""
    for shard in (shard for split in built.num_rows for shard in sorted((path / split).glob("*.parquet"))):
        if _may_have_images(shard):
            rows = [own_row(record, built) for record in pq.read_table(shard).to_pylist()]
            _refuse_images({"": rows}, path)


def _may_have_images(shard: Path) -> bool:
    try:
        schema = pq.read_schema(shard)
    except (OSError, pa.ArrowException):  # opening the folder tells
        return False
    if "images" in schema.names:
        return True
    if "messages" not in schema.names:
        return False
    kind = schema.field("messages").type
    is_turns = pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)
    return bool(is_turns and kind.value_type.get_field_index("images") >= 0)


def _open_folder(path: Path, split_ratio: float | None, seed: int) -> Splits:
    built = describe_built(path)
    _refuse_images_in_shards(path, built)
    splits = {split: _open_split(path / split, count, built) for split, count in built.num_rows.items()}
    train, validation = splits["train"], splits["validation"]
    if train is None:
        raise InputError(f"The dataset {str(path)!r} has no rows to train on.")
    if validation is None and split_ratio:
        train, validation = _split(train, split_ratio, seed)
    return Splits(train, validation, built.digest, built.documents, built.passes)


def _split(rows: ray.data.Dataset, ratio: float, seed: int) -> tuple[ray.data.Dataset, ray.data.Dataset]:
    """Split the rows of a folder, whose ids, documents and prompts alone come to this process."""
    with quiet_ray_data():
        found = rows.map_batches(_prompts, batch_format="pyarrow").take_all()
        known = [(row["id"], row["document"], row["prompt"]) for row in found]
        ids = pa.array(sorted(split_existing(known, ratio=ratio, seed=seed).validation))
        train, validation = (
            rows.map_batches(_with_ids, batch_format="pyarrow", fn_kwargs={"ids": ids, "inside": inside}).materialize()
            for inside in (False, True)
        )
    return train, validation


def _prompts(block: pa.Table) -> pa.Table:
    rows = block.to_pylist()
    columns = {name: [row[name] for row in rows] for name in ("id", "document")}
    return pa.table({**columns, "prompt": [prompt_digest(row) for row in rows]})


def _with_ids(block: pa.Table, *, ids: pa.Array, inside: bool) -> pa.Table:
    found = pc.is_in(block.column("id"), value_set=ids)
    return block.filter(found if inside else pc.invert(found))


def _open_split(folder: Path, num_rows: int, built: BuiltDataset) -> ray.data.Dataset | None:
    shards = shards_of(folder, num_rows)
    if not shards:
        return None
    with quiet_ray_data():
        rows = _read(shards)
        if built.has_own_columns:
            return rows
        return rows.map_batches(functools.partial(_own_rows, built=built, folder=folder), batch_format="pyarrow")


def _read(shards: Sequence[Path]) -> ray.data.Dataset:
    """Return the rows of shards.

    On a cluster this process reads them, since other nodes may not see the folder; and small ones anywhere, since Ray
    Data starts an actor to read the footers.
    """
    if is_on_one_machine() and sum(shard.stat().st_size for shard in shards) > _SMALL_BYTES:
        return ray.data.read_parquet([str(shard.resolve()) for shard in shards])
    return ray.data.from_arrow_refs([ray.put(pq.read_table(shard)) for shard in shards])  # one shard in memory


def _own_rows(block: pa.Table, *, built: BuiltDataset, folder: Path) -> pa.Table:
    rows: list[dict[str, object]] = [own_row(record, built) for record in block.to_pylist()]
    _refuse_images({"": rows}, folder)
    return pa.Table.from_pylist(rows, schema=with_optional(built.kind.schema, rows))
