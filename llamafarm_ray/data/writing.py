"""Write a dataset so that it appears whole or not at all: into a hidden folder beside the output, then by rename."""

from __future__ import annotations

import abc
import contextlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llamafarm_ray.data.formats import default_format, format_row, formats_of
from llamafarm_ray.data.records import (
    WRITABLE,
    RecordWriter,
    file_type,
    is_record_file,
    named_beside,
    open_writer,
    validation_path,
)
from llamafarm_ray.data.rows import ROW_SCHEMA
from llamafarm_ray.errors import ConflictError, InputError, StorageError
from llamafarm_ray.storage.copying import put_in_place
from llamafarm_ray.types import Digest

__all__ = [
    "DATASET_FILE",
    "REPORT_FILE",
    "FileTarget",
    "FolderTarget",
    "Target",
    "require_local",
    "target_for",
]

DATASET_FILE = "dataset.json"
REPORT_FILE = "report.json"
_PAGE_FILE = "report.html"
_ROWS_PER_SHARD = 10_000
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # of "s3://bucket" a path leaves one slash
_SOURCE = ("document", "document_digest", "passage")
_ORIGIN = (*_SOURCE, "provenance", "pii")


class Target(abc.ABC):
    """Destination of a dataset. The calls come in this order: check, open, add and so on, finish, publish."""

    def __init__(self, output: Path, *, overwrite: bool) -> None:
        self.output = output
        self.overwrite = overwrite
        self._staging = Path()
        self._digest = ""

    @abc.abstractmethod
    def check(self) -> None:
        """Refuse a write that is bound to fail, before any work.

        Raises:
            ConflictError: something is at the output that is no dataset.
        """

    @abc.abstractmethod
    def add(self, split: str, rows: list[dict[str, object]]) -> None:
        """Write rows of ``ROW_SCHEMA`` to a split; the caller gives them in an order that is always the same."""

    @abc.abstractmethod
    def finish(self, dataset: dict[str, object], report: dict[str, object], page: str = "") -> None:
        """Close the splits and write what describes the dataset; ``page`` is the report as HTML, "" for none."""

    @abc.abstractmethod
    def publish(self) -> bool:
        """Move the written files to the output; False if the same dataset exists, which then stays.

        Raises:
            ConflictError: the output is another dataset, and ``overwrite`` is off.
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
    """A folder of Parquet shards, ``train/`` and ``validation/``, with ``dataset.json`` and ``report.json``.

    Args:
        row_format: layout of the rows; a kind's own one has the columns of the kind.
        overwrite: replace another dataset.
        schema: the columns of the kind's own layout.
    """

    def __init__(
        self, output: Path, row_format: str, *, overwrite: bool, kind: str = "chat", schema: pa.Schema = ROW_SCHEMA
    ) -> None:
        super().__init__(output, overwrite=overwrite)
        self._kind, self._row_format, self._schema = kind, row_format, schema
        self._pending: dict[str, list[dict[str, object]]] = {}
        self._num_shards: dict[str, int] = {}

    def check(self) -> None:
        """See :meth:`Target.check`; an empty folder is taken."""
        if not self.output.exists() or (self.output / DATASET_FILE).is_file():
            return
        if not self.output.is_dir() or any(self.output.iterdir()):
            raise ConflictError(
                f"The output {str(self.output)!r} exists already and is no dataset.", hint="Choose another one."
            )

    def add(self, split: str, rows: list[dict[str, object]]) -> None:
        """See :meth:`Target.add`."""
        pending = self._pending.setdefault(split, [])
        pending += rows
        while len(pending) >= _ROWS_PER_SHARD:
            self._write(split, pending[:_ROWS_PER_SHARD])
            del pending[:_ROWS_PER_SHARD]

    def finish(self, dataset: dict[str, object], report: dict[str, object], page: str = "") -> None:
        """See :meth:`Target.finish`."""
        for split, rows in self._pending.items():
            if rows:
                self._write(split, rows)
        self._digest = str(dataset["digest"])
        kind = {} if self._kind == "chat" else {"kind": self._kind}
        layout = {} if self._has_own_columns else {"format": self._row_format}
        _write_json(self._staging / DATASET_FILE, {**dataset, **kind, **layout})
        _write_json(self._staging / REPORT_FILE, report)
        if page:
            (self._staging / _PAGE_FILE).write_text(page, encoding="utf-8")

    def publish(self) -> bool:
        """See :meth:`Target.publish`."""
        if (self.output / DATASET_FILE).is_file():
            if _recorded_digest(self.output / DATASET_FILE) == self._digest:
                return False
            if not self.overwrite:
                raise self._conflict(" and holds another dataset")
            put_in_place(self._staging, self.output)
            return True
        self._staging.rename(self.output)  # onto nothing, or onto an empty folder
        return True

    def _write(self, split: str, rows: list[dict[str, object]]) -> None:
        number = self._num_shards.get(split, 0)
        self._num_shards[split] = number + 1
        folder = self._staging / split
        folder.mkdir(exist_ok=True)
        path = folder / f"part-{number:05d}.parquet"
        if self._has_own_columns:
            pq.write_table(pa.Table.from_pylist(rows, schema=self._schema), path)
            return
        with contextlib.closing(open_writer(path)) as writer:
            for row in rows:
                origin = {name: row[name] for name in _SOURCE} | _origin_of(row)
                for record in format_row(row, self._kind, self._row_format):
                    writer.add({"id": row["id"], **record, **origin})

    @property
    def _has_own_columns(self) -> bool:
        return self._row_format == default_format(self._kind)


class FileTarget(Target):
    """One file in a training format, of any type that can be written; validation and report lie beside it.

    Records have the origins of their rows, so that a model that learned from them can be traced to documents. Other
    tools pass over such fields.

    Args:
        overwrite: replace another dataset.
    """

    def __init__(self, output: Path, row_format: str, *, overwrite: bool, kind: str = "chat") -> None:
        super().__init__(output, overwrite=overwrite)
        self._row_format, self._kind = row_format, kind
        self._files: dict[str, RecordWriter] = {}

    def check(self) -> None:
        """See :meth:`Target.check`."""
        if self.output.is_dir():
            raise self._conflict(" and is a folder")

    def add(self, split: str, rows: list[dict[str, object]]) -> None:
        """See :meth:`Target.add`."""
        for row in rows:
            if split not in self._files:
                self._files[split] = open_writer(self._staging / split, type_of=self.output)
            for record in format_row(row, self._kind, self._row_format):
                self._files[split].add({**record, **_origin_of(row)})

    def finish(self, dataset: dict[str, object], report: dict[str, object], page: str = "") -> None:
        """See :meth:`Target.finish`; the report has the dataset's description and the digest of each file in it."""
        for file in self._files.values():
            file.close()
        digests = {self._path(split).name: Digest.of((self._staging / split).read_bytes()) for split in self._files}
        _write_json(self._staging / "report", {**report, "dataset": dataset, "files": digests})
        if page:
            (self._staging / "page").write_text(page, encoding="utf-8")

    def publish(self) -> bool:
        """See :meth:`Target.publish`; the main file comes last, so its companions are never missing."""
        if self.output.exists():
            if self._is_same():
                return False
            if not self.overwrite:
                raise self._conflict(" with other content")
        if "validation" not in self._files:
            self._path("validation").unlink(missing_ok=True)
        if not (self._staging / "page").exists():
            self._path("page").unlink(missing_ok=True)
        for name in ("page", "report", "validation", "train"):
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
            case "page":
                return named_beside(self.output, "report", ".html")
            case _:
                return named_beside(self.output, "report", ".json")


def require_local(output: str | Path) -> None:
    """Refuse a URI as an output, of which a path would make a local folder.

    Raises:
        InputError: it is one.
    """
    if _URI.match(str(output)):
        raise InputError(
            f"The output {str(output)!r} is a URI, and datasets are written to folders and files that all nodes see.",
            hint="Write to a folder, and copy it from there; trained models are kept in the home, which can be a URI.",
        )


def target_for(
    output: Path,
    row_format: str,
    *,
    overwrite: bool,
    kind: str = "chat",
    schema: pa.Schema = ROW_SCHEMA,
) -> Target:
    """Return a file if ``output`` ends like one, else a folder.

    Args:
        output: path of the dataset to write.
        overwrite: replace another dataset.

    Raises:
        InputError: ``output`` is a URI, has no name of its own, as ``/`` and ``..``, or ends like a type that isn't
            written; or rows of this kind can't be written in this format.
    """
    require_local(output)
    output = Path(os.path.abspath(output))  # noqa: PTH100  resolve() would replace a link by where it leads
    if not output.name:
        raise InputError(f"The output {str(output)!r} can't be replaced by a dataset.", hint="Name a new folder.")
    if row_format not in formats_of(kind):
        raise InputError(
            f"Rows of the kind {kind} can't be written as {row_format}.", hint=f"Use {' or '.join(formats_of(kind))}."
        )
    if not is_record_file(output):
        return FolderTarget(output, row_format, overwrite=overwrite, kind=kind, schema=schema)
    if file_type(output) not in WRITABLE:
        raise InputError(f"Files like {output.name!r} are read only.", hint=f"Use {', '.join(WRITABLE)}, or a folder.")
    return FileTarget(output, row_format, overwrite=overwrite, kind=kind)


def _origin_of(row: dict[str, object]) -> dict[str, object]:
    """Return what is known of a row's origin."""
    named = _ORIGIN if row.get("document") else [name for name in _ORIGIN if name != "document_digest"]
    return {name: row[name] for name in named if row.get(name)}


def _recorded_digest(path: Path) -> str:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return ""
    return str(described.get("digest", "")) if isinstance(described, dict) else ""


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _literal(prefix: str) -> str:
    """``prefix`` for a glob, with nothing special in it."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in prefix)


def _is_running(pid: str) -> bool:
    """Return True if the process that made a staging folder on this machine still lives."""
    if not pid.isdigit():
        return True  # not ours to judge
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
