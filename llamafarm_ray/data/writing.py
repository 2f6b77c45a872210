"""Write a dataset so that it appears whole or not at all: into a hidden folder beside the output, then by rename."""

from __future__ import annotations

import abc
import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from llamafarm_ray.data.formats import JSON_SUFFIXES, RowFormat, format_record
from llamafarm_ray.data.rows import ROW_SCHEMA, Message
from llamafarm_ray.errors import ConflictError, InputError, StorageError
from llamafarm_ray.types import Digest

__all__ = [
    "DATASET_FILE",
    "REPORT_FILE",
    "FolderTarget",
    "JsonTarget",
    "RowsTarget",
    "Target",
    "target_for",
    "validation_path",
]

DATASET_FILE = "dataset.json"
REPORT_FILE = "report.json"
_ROWS_PER_SHARD = 10_000


class Target(abc.ABC):
    """Where a dataset is written to, and how. Used in this order: check, open, add and so on, finish, publish."""

    def __init__(self, output: Path, *, overwrite: bool) -> None:
        self.output = output
        self.overwrite = overwrite
        self._staging = Path()
        self._digest = ""

    @abc.abstractmethod
    def check(self) -> None:
        """Refuse early what is bound to fail.

        Raises:
            ConflictError: something is at the output that is no dataset.
        """

    @abc.abstractmethod
    def add(self, split: str, rows: list[dict[str, Any]]) -> None:
        """Write rows of ``ROW_SCHEMA`` to a split; the caller gives them in an order that is always the same."""

    @abc.abstractmethod
    def finish(self, dataset: dict[str, Any], report: dict[str, Any]) -> None:
        """Close the splits and write what describes the dataset."""

    @abc.abstractmethod
    def publish(self) -> bool:
        """Move what was written to the output; False if the same dataset is there already and stays.

        Raises:
            ConflictError: another dataset is there and ``overwrite`` is off.
        """

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """The time of writing: afterwards, and after any error, nothing is left beside the output.

        Raises:
            StorageError: a folder or file can't be written.
        """
        parent, prefix = self.output.parent, f".{self.output.name}.building-{socket.gethostname()}-"
        self._staging = parent / f"{prefix}{os.getpid()}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for stale in parent.glob(f"{_literal(prefix)}*"):
                if not _is_running(stale.name.removeprefix(prefix)):
                    shutil.rmtree(stale)
            self._staging.mkdir()
            yield
        except OSError as error:
            raise StorageError(f"{error.filename or self.output} can't be written: {error.strerror}.") from error
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    def _conflict(self, what: str) -> ConflictError:
        return ConflictError(
            f"The output {str(self.output)!r} exists already{what}.", hint="Choose another one, or ask to overwrite it."
        )


class FolderTarget(Target):
    """A folder of Parquet shards, ``train/`` and ``validation/``, with ``dataset.json`` and ``report.json``."""

    def __init__(self, output: Path, *, overwrite: bool) -> None:
        super().__init__(output, overwrite=overwrite)
        self._pending: dict[str, list[dict[str, Any]]] = {}
        self._num_shards: dict[str, int] = {}

    def check(self) -> None:
        """See :meth:`Target.check`; an empty folder is taken."""
        if not self.output.exists() or (self.output / DATASET_FILE).is_file():
            return
        if not self.output.is_dir() or any(self.output.iterdir()):
            raise ConflictError(
                f"The output {str(self.output)!r} exists already and is no dataset.", hint="Choose another one."
            )

    def add(self, split: str, rows: list[dict[str, Any]]) -> None:
        """See :meth:`Target.add`."""
        pending = self._pending.setdefault(split, [])
        pending += rows
        while len(pending) >= _ROWS_PER_SHARD:
            self._write(split, pending[:_ROWS_PER_SHARD])
            del pending[:_ROWS_PER_SHARD]

    def finish(self, dataset: dict[str, Any], report: dict[str, Any]) -> None:
        """See :meth:`Target.finish`."""
        for split, rows in self._pending.items():
            if rows:
                self._write(split, rows)
        self._digest = str(dataset["digest"])
        _write_json(self._staging / DATASET_FILE, dataset)
        _write_json(self._staging / REPORT_FILE, report)

    def publish(self) -> bool:
        """See :meth:`Target.publish`."""
        if (self.output / DATASET_FILE).is_file():
            if _recorded_digest(self.output / DATASET_FILE) == self._digest:
                return False
            if not self.overwrite:
                raise self._conflict(" and holds another dataset")
            old = self._staging.with_name(f"{self._staging.name}.old")
            self.output.rename(old)
            try:
                self._staging.rename(self.output)
            except OSError:
                old.rename(self.output)
                raise
            shutil.rmtree(old)
            return True
        self._staging.rename(self.output)  # onto nothing, or onto an empty folder
        return True

    def _write(self, split: str, rows: list[dict[str, Any]]) -> None:
        number = self._num_shards.get(split, 0)
        self._num_shards[split] = number + 1
        folder = self._staging / split
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=ROW_SCHEMA), folder / f"part-{number:05d}.parquet")


class JsonTarget(Target):
    """One ``.json`` or ``.jsonl`` file in a training format; validation and report lie beside it."""

    def __init__(self, output: Path, row_format: RowFormat, *, overwrite: bool) -> None:
        super().__init__(output, overwrite=overwrite)
        self._row_format = row_format
        self._lines = output.suffix.lower() == ".jsonl"
        self._files: dict[str, IO[str]] = {}

    def check(self) -> None:
        """See :meth:`Target.check`."""
        if self.output.is_dir():
            raise self._conflict(" and is a folder")

    def add(self, split: str, rows: list[dict[str, Any]]) -> None:
        """See :meth:`Target.add`."""
        for row in rows:
            text = json.dumps(self._record(row), ensure_ascii=False)
            first = split not in self._files
            if first:
                self._files[split] = (self._staging / split).open("w", encoding="utf-8")
            file = self._files[split]
            if self._lines:
                file.write(f"{text}\n")
            else:
                file.write(f"{'[' if first else ','}\n  {text}")

    def _record(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row as it is written."""
        return format_record([Message(**message) for message in row["messages"]], self._row_format)

    def finish(self, dataset: dict[str, Any], report: dict[str, Any]) -> None:
        """See :meth:`Target.finish`; the report has the dataset's description and the digest of each file in it."""
        for file in self._files.values():
            if not self._lines:
                file.write("\n]\n")
            file.close()
        digests = {self._path(split).name: Digest.of((self._staging / split).read_bytes()) for split in self._files}
        _write_json(self._staging / "report", {**report, "dataset": dataset, "files": digests})

    def publish(self) -> bool:
        """See :meth:`Target.publish`; the main file comes last, so what is beside it is never missing."""
        if self.output.exists():
            if self._is_same():
                return False
            if not self.overwrite:
                raise self._conflict(" with other content")
        if "validation" not in self._files:
            self._path("validation").unlink(missing_ok=True)
        for name in ("report", "validation", "train"):
            if (self._staging / name).exists():
                (self._staging / name).replace(self._path(name))
        return True

    def _is_same(self) -> bool:
        return all(
            self._path(split).is_file() and self._path(split).read_bytes() == (self._staging / split).read_bytes()
            for split in self._files
        ) and self._path("validation").exists() == ("validation" in self._files)

    def _path(self, name: str) -> Path:
        match name:
            case "train":
                return self.output
            case "validation":
                return validation_path(self.output)
            case _:
                return self.output.with_name(f"{self.output.stem}.{REPORT_FILE}")


class RowsTarget(JsonTarget):
    """One file of rows of another kind than conversations, see `llamafarm_ray.data.training_rows`."""

    def _record(self, row: dict[str, Any]) -> dict[str, Any]:
        """Everything but the id, which is made anew from the rest."""
        return {name: value for name, value in row.items() if name != "id"}


def target_for(output: Path, row_format: RowFormat, *, overwrite: bool) -> Target:
    """A JSON file if ``output`` ends like one, else a folder.

    Raises:
        InputError: ``output`` has no name of its own, as ``/`` and ``..``.
    """
    output = Path(os.path.abspath(output))  # noqa: PTH100  resolve() would replace a link by where it leads
    if not output.name:
        raise InputError(f"The output {str(output)!r} can't be replaced by a dataset.", hint="Name a new folder.")
    if output.suffix.lower() in JSON_SUFFIXES:
        return JsonTarget(output, row_format, overwrite=overwrite)
    return FolderTarget(output, overwrite=overwrite)


def validation_path(path: Path) -> Path:
    """Where the validation rows of the JSON file ``path`` lie: ``qa.json`` has ``qa.validation.json``."""
    return path.with_name(f"{path.stem}.validation{path.suffix}")


def _recorded_digest(path: Path) -> str:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return ""
    return str(described.get("digest", "")) if isinstance(described, dict) else ""


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _literal(prefix: str) -> str:
    """``prefix`` for a glob, with nothing special in it."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in prefix)


def _is_running(pid: str) -> bool:
    """Whether the process that made a staging folder on this machine still lives."""
    if not pid.isdigit():
        return True  # not ours to judge
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
