"""Several datasets in one, in proportion to weights: training for many tasks at once.

The rule: an epoch has as many rows as the datasets together, and a dataset's share of them is its weight's share of all
weights. A dataset with a larger share than rows is gone through again and again; of one with a smaller share, a part is
taken that the seed chooses, and the same one in every epoch. The choice and number of rows depend on the sizes, the
weights and the seed only.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from llamafarm_ray.data.dataset import Splits, open_dataset
from llamafarm_ray.data.ray_data import quiet_ray_data
from llamafarm_ray.data.rows import DocumentRecord
from llamafarm_ray.errors import InputError
from llamafarm_ray.types import Digest

__all__ = ["REPETITION", "MixedPart", "mix", "open_mixture", "repetitions", "shares"]

REPETITION = "repetition"
"""The column (int32) that distinguishes a mixed row from its copies: 0 for the first."""

_SOURCE = {"id", "document", "document_digest", "passage", "provenance", "pii"}
_OPTIONAL = {"tools"}


@dataclass(frozen=True, slots=True)
class MixedPart:
    """Share of one dataset in a mixture.

    Args:
        num_rows: rows to train on that it has.
        num_taken: number of its rows in an epoch.
    """

    path: str
    digest: str
    weight: float
    num_rows: int
    num_taken: int


def open_mixture(
    weights: Mapping[str, float], *, split_ratio: float | None = None, seed: int
) -> tuple[Splits, list[MixedPart]]:
    """Open several datasets as one. Their validation splits are put together as they are, unweighted.

    Args:
        weights: the weight of each dataset, by its path; their order doesn't matter.
        split_ratio: share of the rows to hold out of each dataset that is not split.
        seed: chooses the rows of a dataset of which a part is taken, and those that are held out.

    Returns:
        The mixture, and its part of each dataset.

    Raises:
        InputError: a dataset is missing or bad, or they are not of one kind.
    """
    paths = sorted(weights)
    opened = [open_dataset(Path(path).expanduser(), split_ratio=split_ratio, seed=seed) for path in paths]
    train, sizes, counts = mix([each.train for each in opened], [weights[path] for path in paths], seed=seed)
    parts = [
        MixedPart(path, each.digest, weights[path], size, count)
        for path, each, size, count in zip(paths, opened, sizes, counts, strict=True)
    ]
    held_out = [each.validation for each in opened if each.validation is not None]
    validation = None
    if held_out:
        schema = _shared_schema([each.schema().base_schema for each in held_out])
        selected = [each.map_batches(_with_schema, batch_format="pyarrow", fn_args=(schema,)) for each in held_out]
        validation = selected[0].union(*selected[1:]) if len(selected) > 1 else selected[0]
    said = json.dumps([seed, *([part.digest, part.weight, part.num_taken] for part in parts)])
    documents: Counter[tuple[str, str]] = Counter()
    for each in opened:
        for document in each.documents:
            documents[document.path, document.digest] += document.num_examples
    records = [DocumentRecord(path, digest, count) for (path, digest), count in documents.items()]
    return Splits(train, validation, Digest.of(said.encode()), records, min(each.passes for each in opened)), parts


def shares(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Return each dataset's number of rows in an epoch: of all rows together, in proportion to the weights.

    Rounded down, and the rows that are left go to the largest remainders, so that none is lost.

    Raises:
        InputError: a weight is not above 0, or a dataset is empty.
    """
    if len(sizes) != len(weights) or not sizes:
        raise InputError(f"A mixture of {len(sizes)} datasets has {len(weights)} weights.")
    for index, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        if size < 1:
            raise InputError(f"Dataset {index + 1} of the mixture has no rows.")
        if not weight > 0:
            raise InputError(f"Dataset {index + 1} of the mixture has the weight {weight}, which is not above 0.")
    total = sum(sizes)
    exact = [total * weight / sum(weights) for weight in weights]
    found = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda index: (found[index] - exact[index], index))
    for index in by_remainder[: total - sum(found)]:
        found[index] += 1
    return found


def repetitions(size: int, count: int, *, seed: int, index: int) -> np.ndarray:
    """Return the number of times that each of a dataset's rows is in the mixture.

    Every row as often as whole passes go into ``count``, and those of one more, unfinished pass once more.

    Args:
        count: its share.
        seed: chooses the rows of the unfinished pass.
        index: index of the dataset in the mixture; equal datasets differ by it.

    Returns:
        int64 of shape (size,), whose sum is ``count``.
    """
    passes, rest = divmod(count, size)
    found = np.full(size, passes, dtype=np.int64)
    found[np.random.default_rng((seed, index)).permutation(size)[:rest]] += 1
    return found


def mix(
    datasets: Sequence[Any], weights: Sequence[float], *, seed: int
) -> tuple[ray.data.Dataset, list[int], list[int]]:
    """Mix datasets whose rows have the same columns. Needs a running Ray.

    Columns that not all of them have are left out, but for the tools of chats.

    Args:
        datasets: Ray Data datasets that keep the order of their rows.
        weights: one each, above 0.
        seed: chooses the rows of a dataset of which a part is taken.

    Returns:
        The rows, one dataset after another (training shuffles them), with the column `REPETITION`; how many rows
        each dataset has; and how many the mixture has of it.

    Raises:
        InputError: there is nothing to mix, or the datasets have no column in common beside the rows' source.
    """
    with quiet_ray_data():
        held = [dataset.materialize() for dataset in datasets]
        sizes = [dataset.count() for dataset in held]
        counts = shares(sizes, weights)
        schema = _shared_schema([dataset.schema().base_schema for dataset in held])
        parts = [
            reference
            for index, (dataset, size, count) in enumerate(zip(held, sizes, counts, strict=True))
            for reference in _repeated(dataset, schema, repetitions(size, count, seed=seed, index=index))
        ]
        return ray.data.from_arrow_refs(parts), sizes, counts


def _shared_schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return the columns that all datasets have, and the tools that some of them have."""
    shared = [name for name in schemas[0].names if all(name in schema.names for schema in schemas)]
    if not set(shared) - _SOURCE:
        listed = "; ".join(", ".join(schema.names) for schema in schemas)
        raise InputError(
            f"The datasets of the mixture have rows of different kinds, with the columns: {listed}.",
            hint="Mix datasets of one kind.",
        )
    # Turns have fields of their own where a dataset uses them.
    whole = pa.unify_schemas(schemas, promote_options="permissive")
    optional = [name for name in whole.names if name in _OPTIONAL and name not in shared]
    return pa.schema([whole.field(name) for name in (*shared, *optional)])


def _with_schema(block: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a block with these columns, and nulls where it has none."""
    own = block.select([name for name in schema.names if name in block.column_names])
    return pa.concat_tables([schema.empty_table(), own], promote_options="permissive")


def _repeated(dataset: Any, schema: pa.Schema, times: np.ndarray) -> list[object]:
    """The dataset's blocks with each row as often as ``times`` says."""
    count, repeat = ray.remote(num_cpus=0)(_num_rows), ray.remote(num_cpus=0)(_repeat)
    references = dataset.to_arrow_refs()
    bounds = np.cumsum([0, *ray.get([count.remote(reference) for reference in references])])
    return [
        repeat.remote(reference, schema, times[start:end])
        for reference, (start, end) in zip(references, pairwise(bounds), strict=True)
        if times[start:end].any()
    ]


def _num_rows(block: pa.Table) -> int:
    return int(block.num_rows)


def _repeat(block: pa.Table, schema: pa.Schema, times: np.ndarray) -> pa.Table:
    rows = _with_schema(block, schema).take(pa.array(np.repeat(np.arange(block.num_rows), times)))
    copies = np.concatenate([np.arange(count, dtype=np.int32) for count in times])
    return rows.append_column(REPETITION, pa.array(copies))
