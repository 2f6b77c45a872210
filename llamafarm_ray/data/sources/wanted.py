"""The files that a source is searched for: documents, or rows."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

from llamafarm_ray.data.readers import SUPPORTED_EXTENSIONS, is_supported
from llamafarm_ray.data.records import RECORD_SUFFIXES, is_described_file, is_record_file
from llamafarm_ray.data.sources.containers import MAX_CONTAINER_BYTES, is_container
from llamafarm_ray.data.sources.limits import max_bytes_of

__all__ = ["DOCUMENTS", "ROWS", "Wanted"]

_CACHED_BY_DATASETS = "cache-*.arrow"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rules of a search for files.

    Args:
        noun: of one file, for messages.
        supported: endings of such files, for messages.
        takes: returns True if a file of this name is read.
        max_bytes: returns the largest size of a file of this name; None for any size.
        hidden: beginnings of the names of files and folders that are passed over.
        built_datasets: look into datasets that were built, which are no documents.
    """

    noun: str
    supported: tuple[str, ...]
    takes: Callable[[str], bool]
    max_bytes: Callable[[str], int | None]
    hidden: tuple[str, ...] = (".",)
    built_datasets: bool = False


def _is_document(name: str) -> bool:
    return is_supported(name) or is_container(name)


def _holds_rows(name: str) -> bool:
    path = Path(PurePath(name).name)
    if is_record_file(path):
        return not is_described_file(path.name) and not fnmatch.fnmatch(path.name, _CACHED_BY_DATASETS)
    return is_container(path.name)


def _max_bytes_of_rows(name: str) -> int | None:
    return None if is_record_file(Path(name)) else MAX_CONTAINER_BYTES


DOCUMENTS = Wanted("document", SUPPORTED_EXTENSIONS, _is_document, max_bytes_of)
ROWS = Wanted(
    "file of rows",
    (*RECORD_SUFFIXES, ".zip", ".tar"),
    _holds_rows,
    _max_bytes_of_rows,
    hidden=(".", "_"),
    built_datasets=True,
)
