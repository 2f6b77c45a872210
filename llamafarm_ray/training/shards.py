"""From rows in Ray Data to one tokenised shard per worker, in an order that depends on the seed alone."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import math
import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from llamafarm_ray.errors import InputError, LlamaFarmError
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries
from llamafarm_ray.training.batch_plan import IGNORED
from llamafarm_ray.training.objectives import TokenisedRow, find_objective

__all__ = ["TokenisedData", "read_shard", "split", "tokenise"]

_SHUFFLE_ROWS = 10_000
"""Rows of a shard that are shuffled together in every epoch but the first; more memory buys a wider shuffle."""

_BLOCK_TOKENS = 4_000_000
"""Tokens of a block that is sorted at once: 32 MB with their labels."""


@dataclass(frozen=True, slots=True)
class TokenisedData:
    """Rows ready for training.

    Args:
        dataset: materialised, with the columns ``input_ids`` and ``labels``, in the order of the first epoch.
        num_rows: rows in it.
        num_tokens: their tokens.
        num_dropped: rows left out, by reason.
    """

    dataset: Any
    num_rows: int
    num_tokens: int
    num_dropped: dict[str, int]


def tokenise(
    rows: ray.data.Dataset, *, base_model: Path, objective: str, max_length: int, seed: int, name: str
) -> TokenisedData:
    """Tokenise rows on the cluster and put them in a random order.

    The order is by a hash of the seed and each row's tokens, so it is the same however the rows came in
    blocks, and on however many workers they were tokenised.

    Args:
        rows: with a column ``messages``.
        base_model: where the tokenizer is; must be readable on every node.
        objective: the objective's name.
        max_length: the longest sequence, in tokens.
        seed: of the order.
        name: what the rows are called in messages.

    Raises:
        InputError: there are no rows, or none that can be trained on.
        UserError: the chat template is missing, or can't render the messages.
    """
    step = functools.partial(
        _tokenise_block, base_model=str(base_model), objective=objective, max_length=max_length, seed=seed
    )
    with _quiet_ray_data():
        rows = rows.copy(rows)
        rows.context.enable_progress_bars = False
        tokenised = rows.map_batches(step, batch_format="pyarrow", zero_copy_batch=True).materialize()
        num_rows, num_dropped, num_tokens = _count(tokenised)
        if num_rows == 0:
            raise InputError(
                f"There is no {name} row that can be trained on"
                + "".join(f"; {count} dropped: {reason}" for reason, count in num_dropped.items())
                + ".",
                hint="Give rows with an assistant turn, or a larger fine_tuning.training.max_length."
                * bool(num_dropped),
            )
        # A sort takes a task for each pair of blocks, so small data goes into few of them first.
        blocks = tokenised.repartition(math.ceil(num_tokens / _BLOCK_TOKENS))
        kept = blocks.map_batches(_keep, batch_format="pyarrow", batch_size=None).sort("order")
        dataset = kept.select_columns(["input_ids", "labels"]).materialize()
    return TokenisedData(dataset, num_rows, num_tokens, num_dropped)


def split(data: TokenisedData, num_workers: int) -> list[Any]:
    """One dataset per worker, whose sizes differ by one row at most; no row is left out."""
    if num_workers == 1:
        return [data.dataset]
    with _quiet_ray_data():
        bounds = [index * data.num_rows // num_workers for index in range(1, num_workers)]
        shards: list[Any] = data.dataset.split_at_indices(bounds)
    return shards


def read_shard(shard: ray.data.DataIterator, epoch: int, *, seed: int) -> Iterator[tuple[Any, Any]]:
    """Stream a worker's rows in the order of that epoch.

    The first epoch takes them as they lie, which is random already; later ones shuffle within a buffer.
    """
    shuffle: dict[str, Any] = {}
    if epoch > 0:
        shuffle = {
            "local_shuffle_buffer_size": _SHUFFLE_ROWS,
            "local_shuffle_seed": int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]),
        }
    for batch in shard.iter_batches(batch_size=64, batch_format="pyarrow", prefetch_batches=1, **shuffle):
        input_ids, labels = batch.column("input_ids"), batch.column("labels")
        for index in range(batch.num_rows):
            yield input_ids[index].values.to_numpy(), labels[index].values.to_numpy()


def _tokenise_block(block: pa.Table, *, base_model: str, objective: str, max_length: int, seed: int) -> pa.Table:
    """Tokenise a block. Our own errors travel as a value: raised, Ray Data would lose all of them but a text."""
    error = None
    rows: list[TokenisedRow] = []
    try:
        rows = _tokenise_rows(block, base_model=Path(base_model), objective=objective, max_length=max_length)
    except LlamaFarmError as caught:
        error = pickle.dumps(caught)
        rows = [TokenisedRow([], [], "error")]
    tokens = pa.list_(pa.int32())
    return pa.table(
        {
            "input_ids": pa.array([row.input_ids for row in rows], tokens),
            "labels": pa.array([row.labels for row in rows], tokens),
            "order": pa.array([_order(seed, row.input_ids, row.labels) for row in rows], pa.string()),
            "num_tokens": pa.array([len(row.input_ids) for row in rows], pa.int64()),
            "dropped": pa.array([row.dropped for row in rows], pa.string()),
            "error": pa.array([error] * len(rows), pa.binary()),
        }
    )


def _tokenise_rows(block: pa.Table, *, base_model: Path, objective: str, max_length: int) -> list[TokenisedRow]:
    if "messages" not in block.column_names:
        raise InputError(
            f"The rows have no column 'messages', only {', '.join(block.column_names)}.",
            hint="Open them with llamafarm_ray.data.open_dataset.",
        )
    tokenizer = _tokenizer(base_model)
    make = find_objective(objective).tokenise
    return [make(tokenizer, messages, max_length) for messages in block.column("messages").to_pylist()]


def _keep(block: pa.Table) -> pa.Table:
    return block.filter(pc.equal(block.column("dropped"), ""))


@functools.lru_cache(maxsize=1)
def _tokenizer(base_model: Path) -> Any:
    quiet_libraries()
    return load_tokenizer(base_model)


def _order(seed: int, input_ids: list[int], labels: list[int]) -> str:
    content = np.array([seed, *input_ids, IGNORED, *labels], dtype="<i8").tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _count(tokenised: ray.data.Dataset) -> tuple[int, dict[str, int], int]:
    """Rows kept, rows dropped by reason, tokens kept. Raises the error that a block holds, if one does."""
    num_by_reason: Counter[str] = Counter()
    num_tokens = 0
    for batch in tokenised.select_columns(["dropped", "num_tokens", "error"]).iter_batches(batch_format="pyarrow"):
        for error in batch.column("error").drop_null().to_pylist():
            raise pickle.loads(error)  # noqa: S301 - written by our own task a moment ago
        num_by_reason.update(batch.column("dropped").to_pylist())
        num_tokens += pc.sum(batch.column("num_tokens")).as_py() or 0
    return num_by_reason.pop("", 0), dict(sorted(num_by_reason.items())), num_tokens


@contextlib.contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """No progress bars and no plans on the terminal while this process runs Ray Data."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    bars, level = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)
