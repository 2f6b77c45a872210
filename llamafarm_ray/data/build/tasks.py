"""Divide documents into tasks, and tell which builds are small enough for one process."""

from __future__ import annotations

import os
from collections.abc import Sequence

from llamafarm_ray.data.sources import SourceFile
from llamafarm_ray.data.sources.containers import is_container

__all__ = ["FileStat", "file_stat", "fits_one_process", "has_remote_file", "tasks_of"]

_MAX_FILES_PER_TASK = 200
_MAX_BYTES_PER_TASK = 4 * 1024 * 1024
_UNKNOWN_BYTES = 256 * 1024  # guess for a file behind a URI
FileStat = tuple[str, int, int, int]


def tasks_of(files: Sequence[SourceFile], num_partitions: int | None = None) -> list[Sequence[SourceFile]]:
    """Divide documents into tasks: of 200 files or 4 MiB at most, or into so many tasks."""
    if num_partitions:
        size = max(1, -(-len(files) // num_partitions))
        return [files[start : start + size] for start in range(0, len(files), size)]
    tasks: list[list[SourceFile]] = []
    num_bytes = 0
    for file in files:
        size = file_stat(file)[1]
        if not tasks or len(tasks[-1]) == _MAX_FILES_PER_TASK or num_bytes + size > _MAX_BYTES_PER_TASK:
            tasks.append([])
            num_bytes = 0
        tasks[-1].append(file)
        num_bytes += size
    return list(tasks)


def fits_one_process(files: Sequence[SourceFile], num_partitions: int | None = None) -> bool:
    """Return True for up to 200 documents of 4 MiB together whose size is known: no archives, no files behind URIs.

    Ray would run such a task in one worker, and take longer to start it than the task takes.
    """
    if num_partitions or has_remote_file(files) or any(is_container(file.path) for file in files):
        return False
    is_few = len(files) <= _MAX_FILES_PER_TASK
    return is_few and sum(file_stat(file)[1] for file in files) <= _MAX_BYTES_PER_TASK


def has_remote_file(files: Sequence[SourceFile]) -> bool:
    """Return True if one of the files is behind a URI; such a file is read again since its changes can't be seen."""
    return any(b"://" in file.location for file in files)


def file_stat(file: SourceFile) -> FileStat:
    """Return a value that differs once a file has changed: name, size, and the times of its last changes."""
    try:
        found = os.stat(file.location)  # noqa: PTH116  a path in bytes
    except OSError:
        return (file.path, _UNKNOWN_BYTES, 0, 0)
    return (file.path, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
