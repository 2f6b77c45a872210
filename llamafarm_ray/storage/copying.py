"""Outputs that are there whole or not at all: copies of folders, and folders in the place of older ones."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from llamafarm_ray.errors import ConflictError, InputError, StorageError

__all__ = ["check_free", "check_output", "copy_folder", "put_in_place"]


def check_free(target: Path) -> None:
    """Check that a path is not taken.

    Raises:
        InputError: something is there that is not an empty folder.
    """
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise InputError(f"{target} exists already.", hint="Name a folder that is not there yet, or an empty one.")


def check_output(output: Path, *, overwrite: bool) -> None:
    """Check that an output may be written.

    Raises:
        ConflictError: it exists, and is not to be replaced.
    """
    if output.exists() and not overwrite:
        raise ConflictError(f"The output {str(output)!r} exists already.", hint="Use another --output, or --overwrite.")


def put_in_place(made: Path, output: Path) -> None:
    """Rename a folder to its output. An older output is deleted once the new one is in its place.

    Raises:
        OSError: the folders can't be written; an older output is where it was.
    """
    if not output.exists():
        made.rename(output)
        return
    old = made.with_name(f"{made.name}.old")
    output.rename(old)
    try:
        made.rename(output)
    except OSError:
        old.rename(output)
        raise
    shutil.rmtree(old)


def copy_folder(source: Path, target: Path, more: Mapping[str, bytes] | None = None) -> None:
    """Copy a folder to a path that is not taken.

    Args:
        more: files that the copy has beside the folder's own.

    Raises:
        StorageError: the target can't be written.
    """
    partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, partial, copy_function=shutil.copyfile)
        for name, data in (more or {}).items():
            (partial / name).write_bytes(data)
        partial.rename(target)
    except OSError as error:
        raise StorageError(f"{target} can't be written: {error}.", hint="Free space there.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
