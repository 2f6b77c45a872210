"""Copies of folders that are there whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from llamafarm_ray.errors import InputError, StorageError

__all__ = ["check_free", "copy_folder"]


def check_free(target: Path) -> None:
    """Check that a path is not taken.

    Raises:
        InputError: something is there that is not an empty folder.
    """
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise InputError(f"{target} exists already.", hint="Name a folder that is not there yet, or an empty one.")


def copy_folder(source: Path, target: Path, more: Mapping[str, bytes] | None = None) -> None:
    """Copy a folder to a path that is not taken.

    Args:
        source: the folder.
        target: destination.
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
