"""From rows in Ray Data to tokens, in an order that depends on the seed alone."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import math
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from llamafarm_ray.errors import InputError, LlamaFarmError
from llamafarm_ray.models.adapters.headers import read_base_config
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries
from llamafarm_ray.training.objectives import Objective
from llamafarm_ray.training.rows import IGNORED, TokenisedRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["COLUMNS", "TokenisedData", "row_order", "tokenise"]

REPETITION = "repetition"
"""The column in which a mixture of datasets says which copy of a row this is; 0 is the row itself."""

COLUMNS = ("input_ids", "labels", "lengths", "tag")
"""The columns that workers read."""

_COUNTED = ["dropped", "num_tokens", "lengths", "error"]

_BLOCK_TOKENS = 4_000_000
"""Tokens of a block that is sorted at once: 32 MB with their labels."""
_FEW_ROWS, _FEW_BYTES = 5_000, 16 * 1024 * 1024
"""So much is tokenised in this process: in a second or two, while others would take longer to import what it takes."""


@dataclass(frozen=True, slots=True)
class TokenisedData:
    """Rows ready for training.

    Args:
        dataset: in the order of the first epoch: materialised by Ray Data, or `TokenShards`. Its columns are those of
            `TokenisedRow`: ``input_ids``, ``labels`` and ``lengths`` (lists of int32) and ``tag`` (int32).
        digest: of the rows and their order.
        context_tokens: the mean over tokens of the length of the sequence they are in.
        num_dropped: rows left out, by reason.
    """

    dataset: Any
    digest: str
    num_rows: int
    num_tokens: int
    context_tokens: float
    num_dropped: dict[str, int]


def tokenise(
    rows: ray.data.Dataset,
    *,
    base_model: Path,
    objective: Objective,
    max_length: int,
    seed: int,
    name: str,
    fetch_base: Callable[[], Path] | None = None,
) -> TokenisedData:
    """Tokenise rows and put them in a random order: a few in this process, more on the cluster.

    The order is by a hash of the seed and each row's tokens, so it is the same however the rows came in
    blocks, and wherever they were tokenised.

    Args:
        rows: with the objective's columns.
        max_length: the longest sequence, in tokens.
        seed: of the order.
        name: name of the rows in messages.
        fetch_base: brings the base model to a node that does not have it.

    Raises:
        InputError: there are no rows, or none that can be trained on.
        UserError: the chat template is missing, or can't render the messages.
    """
    step = functools.partial(
        _tokenise_block,
        base_model=str(base_model),
        fetch_base=fetch_base,
        objective=objective,
        max_length=max_length,
        seed=seed,
    )
    with _quiet_ray_data():
        rows = rows.copy(rows)
        rows.context.enable_progress_bars = False
        # What follows a sort comes in the order in which tasks end, unless it is told otherwise.
        rows.context.execution_options.preserve_order = True
        few = _few(rows)
        if few is None:
            made = rows.map_batches(step, batch_format="pyarrow", zero_copy_batch=True).materialize()
            num_rows, num_dropped, num_tokens, context_tokens = _count(_tables(made, _COUNTED))
        else:
            table = step(few)
            num_rows, num_dropped, num_tokens, context_tokens = _count([table])
        if num_rows == 0:
            raise _no_rows(name, num_dropped)
        if few is None:
            ordered = _sorted(made, num_blocks=math.ceil(num_tokens / _BLOCK_TOKENS))
            digest = _digest(_tables(ordered, ["order"]))
            dataset = ordered.select_columns(list(COLUMNS)).materialize()
        else:
            table = _keep(table).sort_by("order")
            digest = _digest([table])
            dataset = ray.data.from_blocks([table.select(list(COLUMNS))])
        dataset.context.execution_options.preserve_order = True
    return TokenisedData(dataset, digest, num_rows, num_tokens, context_tokens, num_dropped)


def _no_rows(name: str, num_dropped: Mapping[str, int]) -> InputError:
    dropped = "".join(f"; {count} dropped: {reason}" for reason, count in num_dropped.items())
    hint = "Give rows with an assistant turn, or a larger fine_tuning.training.max_length." if num_dropped else ""
    return InputError(f"There is no {name} row that can be trained on{dropped}.", hint=hint)


def _few(rows: ray.data.Dataset) -> pa.Table | None:
    """All rows, if they are few."""
    found = rows.limit(_FEW_ROWS + 1).materialize()
    if not 0 < found.count() <= _FEW_ROWS or found.size_bytes() > _FEW_BYTES:
        return None
    blocks = [block for block in ray.get(found.to_arrow_refs()) if block.num_rows]
    return pa.concat_tables(blocks, promote_options="permissive")


def _sorted(tokenised: ray.data.Dataset, *, num_blocks: int) -> ray.data.Dataset:
    """The rows that are kept, in their order."""
    # A sort takes a task for each pair of blocks, so small data goes into few of them first.
    kept = tokenised.repartition(num_blocks).map_batches(_keep, batch_format="pyarrow", batch_size=None)
    return kept.sort("order").select_columns([*COLUMNS, "order"]).materialize()


def _tables(rows: ray.data.Dataset, columns: list[str]) -> Iterator[pa.Table]:
    return iter(rows.select_columns(columns).iter_batches(batch_format="pyarrow"))


def _tokenise_block(
    block: pa.Table,
    *,
    base_model: str,
    fetch_base: Callable[[], Path] | None,
    objective: Objective,
    max_length: int,
    seed: int,
) -> pa.Table:
    """Tokenise a block. Our own errors travel as a value: raised, Ray Data would lose all of them but a text."""
    error = None
    rows: list[TokenisedRow] = []
    copies: list[int] = []
    try:
        folder = Path(base_model)
        if fetch_base is not None and not folder.exists():
            folder = fetch_base()
        copies, rows = _tokenise_rows(block, base_model=folder, objective=objective, max_length=max_length)
    except LlamaFarmError as caught:
        error = pickle.dumps(caught)
        copies, rows = [0], [TokenisedRow.left_out("error")]
    tokens = pa.list_(pa.int32())
    return pa.table(
        {
            "input_ids": pa.array([row.input_ids for row in rows], tokens),
            "labels": pa.array([row.labels for row in rows], tokens),
            "lengths": pa.array([row.parts for row in rows], tokens),
            "tag": pa.array([row.tag for row in rows], pa.int32()),
            "order": pa.array([row_order(seed, *each) for each in zip(copies, rows, strict=True)], pa.string()),
            "num_tokens": pa.array([len(row.input_ids) for row in rows], pa.int64()),
            "dropped": pa.array([row.dropped for row in rows], pa.string()),
            "error": pa.array([error] * len(rows), pa.binary()),
        }
    )


def _tokenise_rows(
    block: pa.Table, *, base_model: Path, objective: Objective, max_length: int
) -> tuple[list[int], list[TokenisedRow]]:
    """Rows, and before them which copy of a row each is."""
    missing = [name for name in objective.columns if name not in block.column_names]
    if missing:
        raise InputError(
            f"The rows have no column {missing[0]!r}, only {', '.join(block.column_names)}; "
            f"fine_tuning.objective {objective.name} needs it.",
            hint="Choose another objective, or open the rows with llamafarm_ray.data.open_dataset.",
        )
    tokenizer = _tokenizer(base_model)
    made = [
        (row.get(REPETITION, 0), one)
        for row in block.to_pylist()
        for one in objective.tokenise(tokenizer, row, max_length)
    ]
    _check_known([one for _, one in made], tokenizer, base_model)
    return [copy for copy, _ in made], [one for _, one in made]


def _check_known(rows: Sequence[TokenisedRow], tokenizer: PreTrainedTokenizerBase, base_model: Path) -> None:
    """Check that the model has an embedding for each token: a tokenizer may have more.

    Raises:
        InputError: it lacks one.
    """
    config = read_base_config(base_model)
    of_text = config.get("text_config")
    known = (of_text if isinstance(of_text, Mapping) else config).get("vocab_size")
    highest = max((max(row.input_ids, default=0) for row in rows), default=0)
    if isinstance(known, int) and highest >= known:
        raise InputError(
            f"The rows have the token {highest} ({tokenizer.decode([highest])!r}), for which the base model has no "
            f"embedding: it has {known}.",
            hint="Give the base model embeddings for all tokens of its tokenizer (resize_token_embeddings of "
            "transformers), or put the tokenizer into the folder that it was trained with.",
        )


def _keep(block: pa.Table) -> pa.Table:
    return block.filter(pc.equal(block.column("dropped"), ""))


@functools.lru_cache(maxsize=1)
def _tokenizer(base_model: Path) -> PreTrainedTokenizerBase:
    quiet_libraries()
    return load_tokenizer(base_model)


def row_order(seed: int, copy: int, row: TokenisedRow) -> str:
    """Return a row's sort key: by its content, another one for each copy of it (from 1)."""
    content = np.array(
        [seed, row.tag, *row.parts, IGNORED, *row.input_ids, IGNORED, *row.labels, *([copy] if copy else [])],
        dtype="<i8",
    )
    return hashlib.blake2b(content.tobytes(), digest_size=16).hexdigest()


def _digest(tables: Iterable[pa.Table]) -> str:
    """Of all rows in their order."""
    hasher = hashlib.sha256()
    for table in tables:
        hasher.update("".join(table.column("order").to_pylist()).encode())
    return f"sha256:{hasher.hexdigest()}"


def _count(tables: Iterable[pa.Table]) -> tuple[int, dict[str, int], int, float]:
    """Rows kept, rows dropped by reason, tokens kept, and their mean context. Raises the error that a block holds."""
    num_by_reason: Counter[str] = Counter()
    num_tokens = squares = 0
    for table in tables:
        for error in table.column("error").drop_null().to_pylist():
            raise pickle.loads(error)  # noqa: S301 - written by our own task a moment ago
        num_by_reason.update(table.column("dropped").to_pylist())
        num_tokens += pc.sum(table.column("num_tokens")).as_py() or 0
        lengths = pc.list_flatten(table.column("lengths")).cast(pa.int64())
        squares += pc.sum(pc.multiply(lengths, lengths)).as_py() or 0
    num_rows = num_by_reason.pop("", 0)
    return num_rows, dict(sorted(num_by_reason.items())), num_tokens, squares / max(1, num_tokens)


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
