"""Write a dataset in another format or file type, and several datasets as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llamafarm_ray.data.formats import formats_of
from llamafarm_ray.data.reading import DatasetRows, read_dataset
from llamafarm_ray.data.rewriting import merge_rows, reformatted, write_rows
from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import DatasetRegistered, RegistryApi, SourceDocument
from llamafarm_ray.registry.commands import RegisterDataset
from llamafarm_ray.workflows.datasets.create_dataset import dataset_name

__all__ = ["WrittenDataset", "export", "merge"]


@dataclass(frozen=True, slots=True)
class WrittenDataset:
    """A dataset that was written.

    Attributes:
        path: of its folder or file.
        num_validation: rows held out.
        num_duplicates: rows that were left out because they are in several of the merged datasets.
        created: False if the same dataset was there and stays.
    """

    name: str
    path: str
    kind: str
    digest: str
    num_train: int
    num_validation: int
    num_documents: int
    num_duplicates: int
    created: bool

    def to_dict(self) -> dict[str, object]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def export(path: Path, output: Path, *, row_format: str | None, overwrite: bool) -> WrittenDataset:
    """Write a dataset in another format, or into a file of another type.

    Args:
        output: a file of a type that can be written, or a folder.
        row_format: of the rows; None: the one that keeps everything.

    Raises:
        InputError: the dataset is unusable, or its rows don't fit the format.
        ConflictError: something else is at ``output``.
    """
    found = read_dataset(path)
    if row_format is not None:
        if row_format not in formats_of(found.kind.name):
            known = " or ".join(formats_of(found.kind.name))
            raise InputError(f"{path} holds {found.kind.name} rows, which are no {row_format}.", hint=f"Use {known}.")
        found = reformatted(found, row_format)
    return _write(found, output, row_format=row_format, overwrite=overwrite, num_duplicates=0)


def merge(
    registry: RegistryApi, paths: Sequence[Path], output: Path, *, row_format: str | None, overwrite: bool
) -> WrittenDataset:
    """Write several datasets as one, without duplicates, and register it with the documents of all.

    Args:
        registry: registry for the result.
        paths: of the datasets; of rows that are in several, those of the first one stay.
        output: a file of a type that can be written, or a folder.
        row_format: of the rows; None: the one that keeps everything.
        overwrite: replace another dataset.

    Raises:
        InputError: fewer than two are given, one is unusable, or they hold rows of different kinds.
        ConflictError: something else is at ``output``.
    """
    if len(paths) < 2:  # one dataset is exported
        raise InputError("A merge takes at least two datasets.", hint="`llamafarm datasets export` copies one.")
    merged = merge_rows([read_dataset(path) for path in paths])
    written = _write(
        merged.rows, output, row_format=row_format, overwrite=overwrite, num_duplicates=merged.num_duplicates
    )
    registered = DatasetRegistered(
        name=written.name,
        digest=written.digest,
        num_train=written.num_train,
        num_validation=written.num_validation,
        location=written.path,
        documents=tuple(SourceDocument(**asdict(document)) for document in merged.rows.documents),
    )
    registry.submit(RegisterDataset(registered), reason=f"datasets merge: {', '.join(map(str, paths))}"[:500])
    return written


def _write(
    found: DatasetRows, output: Path, *, row_format: str | None, overwrite: bool, num_duplicates: int
) -> WrittenDataset:
    name = dataset_name(output)
    created = write_rows(found, output, name=name, row_format=row_format, overwrite=overwrite)
    return WrittenDataset(
        name=name,
        path=str(output.resolve()),
        kind=found.kind.name,
        digest=found.digest,
        num_train=len(found.rows["train"]),
        num_validation=len(found.rows.get("validation", ())),
        num_documents=len(found.documents),
        num_duplicates=num_duplicates,
        created=created,
    )
