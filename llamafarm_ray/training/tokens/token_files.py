"""Tokens on disk: a dataset's rows in training order, as Parquet shards that every worker streams."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import transformers
from pydantic import BaseModel

from llamafarm_ray import __version__
from llamafarm_ray.errors import StorageError
from llamafarm_ray.models.folder import TOKENIZER_FILES
from llamafarm_ray.training.objectives import Objective
from llamafarm_ray.training.tokens.tokenised import COLUMNS, TokenisedData

__all__ = ["TokenSettings", "TokenShards", "TokenStore", "tokenizer_digest"]

_FORMAT_VERSION: Final = 1
_DESCRIPTION: Final = "tokens.json"
_ROWS_PER_SHARD: Final = 50_000
_ROWS_PER_GROUP: Final = 2_000
_NUM_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """Everything but the rows that decides tokens and their order.

    Args:
        tokenizer: digest of the tokenizer's files and its chat template.
        objective_settings: its own section as plain values; None for its defaults.
        max_length: the longest sequence, in tokens.
        seed: of the order.
    """

    tokenizer: str
    objective: str
    objective_settings: dict[str, object] | None
    max_length: int
    seed: int

    @classmethod
    def of(
        cls, base_model: Path, objective: Objective, settings: BaseModel | None, *, max_length: int, seed: int
    ) -> TokenSettings:
        """Return the settings of an objective on a base model's tokenizer."""
        plain = settings.model_dump(mode="json") if settings is not None else None
        return cls(tokenizer_digest(base_model), objective.name, plain, max_length, seed)


def tokenizer_digest(base_model: Path) -> str:
    """Return a digest of the files that decide how text becomes tokens, whatever the weights beside them are."""
    state = hashlib.sha256()
    for name in sorted((*TOKENIZER_FILES, "chat_template.json")):
        path = base_model / name
        if path.is_file():
            content = path.read_bytes()
            state.update(f"{name} {len(content)}\n".encode() + content)
    return f"sha256:{state.hexdigest()}"


@dataclass(frozen=True, slots=True)
class TokenShards:
    """Parquet files of tokens, read one batch at a time without Ray's tasks: workers may have taken all CPUs.

    Args:
        paths: of the files, in their order; every node must be able to read them.
    """

    paths: tuple[str, ...]

    def iter_batches(
        self, *, batch_size: int, batch_format: str = "pyarrow", prefetch_batches: int = 0
    ) -> Iterator[pa.Table]:
        """Yield tables of ``batch_size`` rows at most, as a dataset of Ray Data does."""
        del batch_format, prefetch_batches
        for path in self.paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=batch_size):
                    yield pa.Table.from_batches([batch])


@dataclass(frozen=True, slots=True)
class TokenStore:
    """Tokens of one dataset, each set in a folder named by a digest of all that decides it."""

    folder: Path
    rows: str

    def load(self, settings: TokenSettings, split: str) -> TokenisedData | None:
        """Return the tokens of a split for these settings; None if there are none, or not all of them."""
        place = self._place(settings, split)
        try:
            described = json.loads((place / _DESCRIPTION).read_text(encoding="utf-8"))
            files = [(place / name, size) for name, size in described["files"].items()]
            if any(path.stat().st_size != size for path, size in files):
                return None
            shards = TokenShards(tuple(str(path.resolve()) for path, _ in files))
            return TokenisedData(shards, **described["tokens"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self, settings: TokenSettings, split: str, tokens: TokenisedData) -> TokenisedData:
        """Write the tokens of a split, whole or not at all, and return them as they are read from there.

        Raises:
            StorageError: the folder can't be written.
        """
        place = self._place(settings, split)
        described = asdict(tokens, dict_factory=_without_dataset)
        staging = self.folder / f".writing-{uuid.uuid4().hex}"
        try:
            staging.mkdir(parents=True)
            files = _write_shards(staging, tokens)
            content = {"settings": asdict(settings), "rows": self.rows, "tokens": described, "files": files}
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (staging / _DESCRIPTION).write_text(f"{text}\n", encoding="utf-8")
            shutil.rmtree(place, ignore_errors=True)  # a set that is not whole
            staging.rename(place)
        except OSError as error:
            raise StorageError(f"{error.filename or place} can't be written: {error.strerror}.") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        found = self.load(settings, split)
        if found is None:
            raise StorageError(f"The tokens in {place} can't be read back.", hint="Look at the disk.")
        return found

    def has_others(self) -> bool:
        """Return True if there are tokens for some settings."""
        return any(self.folder.glob(f"*/{_DESCRIPTION}"))

    def _place(self, settings: TokenSettings, split: str) -> Path:
        decides = [_FORMAT_VERSION, __version__, transformers.__version__, self.rows, asdict(settings)]
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{split}-{digest[:_NUM_DIGITS]}"


def _without_dataset(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return {name: value for name, value in pairs if name != "dataset"}


def _write_shards(folder: Path, tokens: TokenisedData) -> dict[str, int]:
    """Write the rows in their order, and return the size of each file."""
    sizes: dict[str, int] = {}
    writer: pq.ParquetWriter | None = None
    num_rows = 0
    path = folder
    try:
        for table in tokens.dataset.iter_batches(batch_size=_ROWS_PER_GROUP, batch_format="pyarrow"):
            if writer is None:
                path = folder / f"part-{len(sizes):05d}.parquet"
                writer = pq.ParquetWriter(path, table.select(COLUMNS).schema, compression="zstd")
            writer.write_table(table.select(COLUMNS))
            num_rows += table.num_rows
            if num_rows >= _ROWS_PER_SHARD:
                writer.close()
                sizes[path.name] = path.stat().st_size
                writer, num_rows = None, 0
    finally:
        if writer is not None:
            writer.close()
            sizes[path.name] = path.stat().st_size
    return sizes
