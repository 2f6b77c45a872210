"""Remains of an earlier run in its folder: to resume, to finish, or to protect from loss."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from llamafarm_ray.errors import ConflictError, StorageError
from llamafarm_ray.storage import Location
from llamafarm_ray.training.checkpoints import CheckpointStore
from llamafarm_ray.training.plan.identity import differences, fingerprint_of, read_facts
from llamafarm_ray.training.plan.job import RunFolder, TrainingJob
from llamafarm_ray.training.publishing import finish_publication
from llamafarm_ray.training.result import TrainingResult

__all__ = ["continue_or_begin", "end_publication", "has_checkpoint"]


def continue_or_begin(
    job: TrainingJob,
    facts: Mapping[str, object],
    store: CheckpointStore,
    note: Callable[[str], None],
    *,
    restart: bool,
) -> None:
    """Say where the run goes on, or make room for a new one.

    Args:
        note: called with notes for the user.
        restart: remove an unfinished run.

    Raises:
        ConflictError: an unfinished run with other settings would be lost.
    """
    earlier = read_facts(job.folder)
    if earlier is not None and (restart or earlier != facts):
        last = None if restart else _last_step(job.folder)
        if last is not None:
            raise ConflictError(
                f"An unfinished run in {job.folder.path} (a checkpoint after step {last}) differs from this one in "
                f"{', '.join(differences(earlier, facts))}.",
                hint="Use its settings to go on with it, or --restart to forget it.",
            )
        _remove_checkpoints(job.folder, note)
        for path in (job.folder.path / "checkpoints", job.folder.output, job.folder.logs, job.folder.ray):
            shutil.rmtree(path, ignore_errors=True)
    if restart:
        store.clear()
    try:
        elsewhere = job.checkpoints if job.checkpoints != str(job.folder.path) else None
        identity = {"facts": facts, "checkpoints": elsewhere}
        job.folder.identity.write_text(json.dumps(identity, indent=2), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"The run's folder {job.folder.path} can't be written: {error}") from error
    found = store.find()
    if found:
        note(f"An unfinished run goes on after step {found[0].step} of {job.num_steps}.")
    else:
        shutil.rmtree(job.folder.output, ignore_errors=True)  # of a run that ended before its first checkpoint


def end_publication(
    folder: RunFolder, output: Path, note: Callable[[str], None]
) -> tuple[TrainingResult, dict[str, object] | None] | None:
    """End an earlier run that was killed while its output took its place: its result, and what decided it."""
    try:
        result = finish_publication(folder, output)
        if result is None:
            return None
        note(f"The output {str(output)!r} of the run before, which was killed while it took its place, is whole.")
        facts = read_facts(folder)
        if facts is not None:
            _remove_checkpoints(folder, note)
        for path in folder.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
        folder.identity.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"The run's folder {folder.path} can't be written: {error}") from error
    return result, facts


def has_checkpoint(store: CheckpointStore) -> bool:
    """Return True if there is a checkpoint to resume, as far as can be known."""
    try:
        return bool(store.find())
    except StorageError:
        return True  # nobody knows, so nothing is thrown away


def _checkpoints_of(folder: RunFolder) -> CheckpointStore:
    """Return the checkpoint store of a folder's run, which may be on another storage."""
    found = json.loads(folder.identity.read_text(encoding="utf-8"))
    return CheckpointStore(Location(found["checkpoints"] or folder.path), fingerprint=fingerprint_of(found["facts"]))


def _last_step(folder: RunFolder) -> int | None:
    """The step of the latest checkpoint of the folder's run.

    Raises:
        StorageError: its storage does not answer, so its checkpoints can't be listed.
    """
    return max((stored.step for stored in _checkpoints_of(folder).find()), default=None)


def _remove_checkpoints(folder: RunFolder, note: Callable[[str], None]) -> None:
    """Forget those of the folder's run; where their storage is gone, so are they."""
    try:
        _checkpoints_of(folder).clear()
    except StorageError as error:
        note(f"The checkpoints of the earlier run could not be removed: {error}")
