"""Base model and output of a run whose driver and workers share no folder but a bucket."""

from __future__ import annotations

import dataclasses
import shutil

from llamafarm_ray.errors import StorageError
from llamafarm_ray.storage import Location
from llamafarm_ray.training.plan.job import TrainingJob

__all__ = ["collect_output", "hand_over_output", "on_this_node"]

_OUTPUT = "output"


def on_this_node(job: TrainingJob) -> TrainingJob:
    """Return the job with the base model's folder on a worker's node, fetched if it is not there.

    Raises:
        StorageError: nothing that this node writes would reach the driver.
        LlamaFarmError: the base model can't be fetched.
    """
    if not _sees_folder(job) and Location(job.checkpoints).is_local:
        raise StorageError(
            f"A worker's node does not see the run's folder {job.folder.path}, so its output would be lost.",
            hint="Set LLAMAFARM_HOME to a bucket (s3://...), or put the output on storage that all nodes share.",
        )
    if job.fetch_base is None or job.base_model.exists():
        return job
    return dataclasses.replace(job, base_model=job.fetch_base())


def hand_over_output(job: TrainingJob) -> None:
    """Upload the output beside the checkpoints, and leave nothing on this node. For rank 0, where no folder is shared.

    Raises:
        StorageError: the storage does not answer.
    """
    place = Location(job.checkpoints, is_patient=True)
    if _sees_folder(job) or place.is_local:
        return
    for file in list(place.walk(_OUTPUT)):  # of a driver that ended before it collected them
        place.remove(file.name)
    for path in sorted(job.folder.output.rglob("*")):
        if path.is_file():
            place.upload(path, f"{_OUTPUT}/{path.relative_to(job.folder.output).as_posix()}")
    shutil.rmtree(job.folder.path, ignore_errors=True)


def collect_output(job: TrainingJob) -> None:
    """Download the output that was handed over, if there is one. For the driver.

    Raises:
        StorageError: the storage does not answer.
    """
    place = Location(job.checkpoints, is_patient=True)
    if place.is_local or any(job.folder.output.glob("*.safetensors")):  # the output is here
        return
    files = list(place.walk(_OUTPUT))
    for file in files:
        target = job.folder.path / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        place.download(file.name, target)
    for file in files:
        place.remove(file.name)


def _sees_folder(job: TrainingJob) -> bool:
    """Return True if the driver's lock, and so the folder that it is in, is here too."""
    return job.folder.lock.exists()
