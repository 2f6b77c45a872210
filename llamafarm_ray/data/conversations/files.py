"""Files of rows: in folders, patterns, archives and buckets, with the splits that their names tell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from llamafarm_ray.data.conversations.slack import is_slack_export
from llamafarm_ray.data.records import (
    chosen_splits,
    find_records,
    is_record_file,
    saved_by_datasets,
    split_of_path,
    validation_path,
)
from llamafarm_ray.data.records.base import Convert
from llamafarm_ray.data.sources import SkippedDocument
from llamafarm_ray.data.sources.containers import is_container
from llamafarm_ray.data.sources.discover import discover, is_remote, local_path
from llamafarm_ray.data.sources.found import plain_path
from llamafarm_ray.data.sources.remote import is_page
from llamafarm_ray.data.sources.wanted import ROWS
from llamafarm_ray.errors import InputError

__all__ = ["RowFile", "RowFiles", "find_row_files"]


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file of rows.

    Args:
        path: its name in the dataset, as the document of its rows.
        location: the absolute path, in the file system's own bytes, or a URI.
        split: ``train`` or ``validation``.
        convert: conversion that its records need.
    """

    path: str
    location: bytes
    split: str = "train"
    convert: Convert | None = None


@dataclass(slots=True)
class RowFiles:
    """Files of a source that hold rows.

    Args:
        name: of the source, which the channels of a Slack export follow.
        files: to read, in order.
        is_slack: the files are an unpacked export of Slack.
        skipped: files that can't be read.
        ignored: number of other files by their extension.
    """

    name: str
    files: list[RowFile] = field(default_factory=list)
    is_slack: bool = False
    skipped: list[SkippedDocument] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)


def find_row_files(sources: Sequence[str]) -> list[RowFiles]:
    """Find the files of one or several sources of rows.

    The path of a file starts at its source; with several sources, at the folder that all local ones are in, and those
    of URIs are their addresses.

    Args:
        sources: folders, files, patterns, archives and URIs; of local ones also ``FOLDER#SPLIT`` and the descriptions
            that `find_records` takes.

    Raises:
        InputError: a source is missing or can't be listed, or has no rows.
    """
    found = [_find(source) for source in sources]
    if len(found) > 1:
        local = [_folder_of(source) for source in sources if not is_remote(source)]
        top = Path(os.path.commonpath(local)) if local else Path("/")
        for one in found:
            one.files = [_with_whole_path(file, top) for file in one.files]
    return found


def _find(source: str) -> RowFiles:
    described = None if is_remote(source) else _described(Path(local_path(source)).expanduser())
    if described is not None:
        return described
    sources = discover(source, wanted=ROWS)
    name = sources.name or PurePosixPath(source).name
    found = RowFiles(name, skipped=sources.skipped, ignored=dict(sources.ignored))
    if Path(local_path(source)).expanduser().is_dir():
        name = found.name = Path(local_path(source)).expanduser().name or name
    files = [RowFile(file.path, file.location) for file in sources.files]
    if is_slack_export(file.path for file in files):
        found.files, found.is_slack = files, True
        return found
    if is_remote(source) and len(files) == 1 and not is_page(source):
        files += _beside(source)
    splits: dict[str, list[RowFile]] = {}
    for file in files:
        splits.setdefault(split_of_path(PurePosixPath(file.path)), []).append(file)
    if splits:
        chosen = chosen_splits(source, splits)
        found.files = [RowFile(one.path, one.location, split) for split, of in chosen.items() for one in of]
    return found


def _described(path: Path) -> RowFiles | None:
    """Return the files of a single local file of rows, of a folder of `datasets`, or of a description of files."""
    whole = path if path.exists() else Path(str(path).rpartition("#")[0] or path)
    if not whole.exists() or (is_container(whole.name) and not is_record_file(whole)):
        return None
    if path.exists() and path.is_dir() and not _is_saved(path):
        return None
    splits = find_records(path)
    files = [file.path for records in splits.values() for file in records.files]
    root = whole if whole.is_dir() else Path(os.path.commonpath([file.parent for file in files]))
    found = [
        RowFile(plain_path(file.path.relative_to(root)), os.fsencode(file.path.absolute()), split, file.convert)
        for split, records in splits.items()
        for file in records.files
    ]
    return RowFiles(whole.name, found)


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or bool(saved_by_datasets(folder))


def _beside(uri: str) -> list[RowFile]:
    """Return the file for validation beside a single file at a URI, if there is one."""
    name = uri.rpartition("/")[2]
    if not is_record_file(Path(name)):
        return []
    try:
        beside = discover(f"{uri.removesuffix(name)}{validation_path(Path(name)).name}", wanted=ROWS)
    except InputError:
        return []
    return [RowFile(file.path, file.location) for file in beside.files]


def _folder_of(source: str) -> Path:
    path = Path(local_path(source).partition("#")[0]).expanduser()
    return Path(os.path.abspath(path)).parent  # noqa: PTH100  patterns don't resolve


def _with_whole_path(file: RowFile, top: Path) -> RowFile:
    location = os.fsdecode(file.location)
    path = location if "://" in location else plain_path(os.path.relpath(location, top))
    return RowFile(path, file.location, file.split, file.convert)
