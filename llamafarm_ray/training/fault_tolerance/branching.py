"""Runs that begin with what another run had learnt: its weights and optimizer after a step, with other settings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.config.sections.fine_tuning import CHANGEABLE_MIDWAY
from llamafarm_ray.errors import ConflictError, InputError, StorageError
from llamafarm_ray.storage import Location
from llamafarm_ray.training.checkpoints import CheckpointStore
from llamafarm_ray.training.plan.identity import differences, fingerprint_of, read_facts
from llamafarm_ray.training.plan.job import RunFolder

__all__ = ["BeginWith", "branch", "keep_checkpoints"]

_CHECKPOINTS, _MANIFEST = "checkpoints", "checkpoint.json"
_MAY_DIFFER = {f"training.{key}" for key in CHANGEABLE_MIDWAY}


@dataclass(frozen=True, slots=True)
class BeginWith:
    """Checkpoint that a run begins with.

    Args:
        folder: of the other run, or where `keep_checkpoints` keeps its checkpoints.
        step: after which of its optimizer steps; the new run goes on with the one after it.
    """

    folder: Path
    step: int


def branch(facts: Mapping[str, object], store: CheckpointStore, begin_with: BeginWith) -> None:
    """Copy another run's checkpoint into a run that has none.

    Args:
        facts: facts that identify the new run.

    Raises:
        InputError: there is no such checkpoint.
        ConflictError: the runs differ in settings that can't change in the middle of a run.
        IntegrityError: the checkpoint is damaged.
        StorageError: it can't be read, or the copy not be written.
    """
    theirs = read_facts(RunFolder(begin_with.folder))
    other = CheckpointStore(Location(begin_with.folder), fingerprint=fingerprint_of(theirs or {}))
    found = next((stored for stored in other.find() if stored.step == begin_with.step), None)
    if theirs is None or found is None:
        raise InputError(f"There is no checkpoint after step {begin_with.step} in {begin_with.folder}.")
    wrong = [name for name in differences(theirs, facts) if name not in _MAY_DIFFER]
    if wrong:
        raise ConflictError(
            f"A run can't begin with the one in {begin_with.folder}: they differ in {', '.join(wrong)}.",
            hint=f"Only {', '.join(CHANGEABLE_MIDWAY)} may change in the middle of a training.",
        )
    store.adopt(other, found)


def keep_checkpoints(run: RunFolder, every: int, kept: Path) -> set[int]:
    """Keep a run's checkpoints after every so many steps in another folder, where they stay when the run ends.

    On the same file system they take no room of their own while the run has them as well.

    Args:
        run: run under way, with its checkpoints on its own disk.
        every: steps between two that are kept.
        kept: folder of the copy; `BeginWith` reads it.

    Returns:
        The steps of all that are kept.

    Raises:
        StorageError: they can't be written.
    """
    try:
        for manifest in run.path.glob(f"{_CHECKPOINTS}/step-*/{_MANIFEST}"):
            if _step_of(manifest) % every == 0:
                _keep(manifest.parent, kept / _CHECKPOINTS / manifest.parent.name)
        there = {_step_of(manifest) for manifest in kept.glob(f"{_CHECKPOINTS}/step-*/{_MANIFEST}")}
        if there and not RunFolder(kept).identity.exists():
            shutil.copy2(run.identity, RunFolder(kept).identity)
    except OSError as error:
        raise StorageError(f"Checkpoints can't be kept in {kept}: {error}", hint="Is the disk full?") from error
    return there


def _step_of(manifest: Path) -> int:
    return int(manifest.parent.name.split("-")[1])


def _keep(folder: Path, target: Path) -> None:
    """Link a whole checkpoint, its manifest last, so that nothing half linked counts."""
    if (target / _MANIFEST).exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == _MANIFEST):
        (target / path.name).unlink(missing_ok=True)
        try:
            os.link(path, target / path.name)
        except FileNotFoundError:
            return  # removed meanwhile, as newer ones are there
        except OSError:  # another file system, or one without links
            shutil.copy2(path, target / path.name)
