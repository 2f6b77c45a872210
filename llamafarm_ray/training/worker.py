"""What one Ray Train worker does, from an empty process to a saved model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import random
import shutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed

from llamafarm_ray.errors import LlamaFarmError, TrainingError
from llamafarm_ray.models.folder import TOKENIZER_FILES
from llamafarm_ray.models.foreign import first_line
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries
from llamafarm_ray.training.batch_plan import BatchPlan
from llamafarm_ray.training.batches import windows
from llamafarm_ray.training.channel import ProgressReporter
from llamafarm_ray.training.checkpoints import Checkpoints, RunState
from llamafarm_ray.training.job import TrainingJob
from llamafarm_ray.training.loop import Windows, mean_loss, train_steps
from llamafarm_ray.training.methods import Method, Precision, find_method
from llamafarm_ray.training.objectives import find_objective
from llamafarm_ray.training.result import Progress
from llamafarm_ray.training.schedule import Schedule
from llamafarm_ray.training.shards import read_shard
from llamafarm_ray.training.strategies import Place, Strategy, find_strategy
from llamafarm_ray.training.tracking import TensorBoardTracker

__all__ = ["run_worker"]


def run_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Ray Train's entry point: run the job, and turn whatever goes wrong into an error of ours.

    Args:
        settings: ``job``, a `TrainingJob`, and ``channel``, the handle of a `ProgressChannel` actor.

    Returns:
        The `RunState` as a dictionary, with ``validation_loss`` and ``num_trainable_parameters``; empty where the
        channel holds a failure.
    """
    job, channel = settings["job"], settings["channel"]
    earlier = ray.get(channel.failure.remote())
    if earlier is not None:
        raise earlier  # another try would end the same way
    context = ray.train.get_context()
    with _output_to(job.folder.logs / f"worker-{context.get_world_rank()}.log"):
        try:
            return _run(job, channel)
        except Exception as error:  # the process boundary: the driver can't unpickle every library's errors
            failure = error if isinstance(error, LlamaFarmError) else _as_ours(error)
            traceback.print_exc()
            if isinstance(error, LlamaFarmError) or not _is_lost_worker(error):
                ray.get(channel.fail.remote(failure))
                if context.get_world_size() == 1:
                    return {}  # raised, it would be tried again; several workers must, or the others would wait
            raise failure from error


def _as_ours(error: Exception) -> TrainingError:
    if isinstance(error, torch.OutOfMemoryError):
        return TrainingError(
            "A worker ran out of GPU memory.",
            hint="Lower fine_tuning.training.batch_size, set gradient_checkpointing, or use method qlora.",
        )
    return TrainingError(f"A worker failed: {first_line(error)}")


def _is_lost_worker(error: Exception) -> bool:
    """Whether ``error`` says that another worker is gone: only then does it help to start again."""
    text = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or "connection" in text or "timed out" in text


def _run(job: TrainingJob, channel: Any) -> dict[str, Any]:
    quiet_libraries()
    place = _find_place()
    _seed(job.seed)
    method = find_method(job.method)(job.parameters)
    strategy = find_strategy(job.strategy)(place, Precision(job.precision), job.training)
    module = _build_model(job, method, strategy)
    strategy.prepare(module)
    _seed(job.seed + 1 + place.rank)  # weights start alike on all workers, dropout differs

    objective = find_objective(job.objective)
    checkpoints = Checkpoints(job.checkpoint_every_steps)
    state = checkpoints.restore(strategy)
    reporters = _reporters(job, channel, place, state)

    def after_step(state: RunState, progress: Progress) -> None:
        for reporter in reporters:
            reporter.step(progress)
        checkpoints.after_step(strategy, state, num_steps=job.num_steps)

    steps = _read(job, "train", job.plan, first_step=state.step, num_steps=job.num_steps)
    schedule = Schedule.of(job.training, job.num_steps)
    train_steps(strategy, objective, steps, schedule=schedule, state=state, after_step=after_step)

    validation_loss = None
    if plan := job.validation_plan:
        every_row_once = _read(job, "validation", plan, first_step=0, num_steps=plan.num_windows)
        validation_loss = mean_loss(strategy, objective, every_row_once)
    num_trainable = _save(job, method, module, strategy)
    for reporter in reporters:
        if isinstance(reporter, TensorBoardTracker):
            if validation_loss is not None:
                reporter.validation(validation_loss, state.step)
            reporter.close()
        else:
            reporter.flush()
    return {
        **dataclasses.asdict(state),
        "validation_loss": validation_loss,
        "num_trainable_parameters": num_trainable,
    }


def _build_model(job: TrainingJob, method: Method, strategy: Strategy) -> Any:
    with strategy.loading():
        model = method.load(job.base_model, precision=strategy.precision, device=strategy.place.device)
    model = method.wrap(model, base_model=job.base_model)
    if job.training.gradient_checkpointing:
        # Gathering weights for the second forward is hidden from the newer, non-reentrant kind.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": strategy.shards_weights})
        model.enable_input_require_grads()
    return model


def _read(job: TrainingJob, name: str, plan: BatchPlan, *, first_step: int, num_steps: int) -> Windows:
    shard = ray.train.get_dataset_shard(f"{name}-{ray.train.get_context().get_world_rank()}")
    pad_id = load_tokenizer(job.base_model).pad_token_id
    read_epoch = functools.partial(read_shard, shard, seed=job.seed)
    return windows(plan, read_epoch, first_step=first_step, num_steps=num_steps, pad_id=pad_id)


def _reporters(
    job: TrainingJob, channel: Any, place: Place, state: RunState
) -> list[ProgressReporter | TensorBoardTracker]:
    if place.rank != 0:
        return []
    reporters: list[ProgressReporter | TensorBoardTracker] = [ProgressReporter(channel, job.training.log_every_s)]
    if job.tensorboard:
        reporters.append(TensorBoardTracker(job.folder.output / "tensorboard", first_step=state.step))
    return reporters


def _save(job: TrainingJob, method: Method, module: Any, strategy: Strategy) -> int:
    """Write the trained weights and the tokenizer, on rank 0. Returns how many parameters were trained."""
    weights = strategy.weights()
    if strategy.place.rank != 0:
        return 0
    folder = job.folder.output
    folder.mkdir(parents=True, exist_ok=True)
    method.save(module, weights, folder)
    # Copied rather than saved anew, so that they are the base model's very bytes.
    for name in TOKENIZER_FILES:
        if (job.base_model / name).is_file():
            shutil.copyfile(job.base_model / name, folder / name)
    return sum(tensor.numel() for tensor in weights.values())


def _find_place() -> Place:
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        # Workers of one machine share its cores; more threads than cores only get in each other's way.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    return Place(context.get_world_rank(), context.get_world_size(), device)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries that use the global generator
    torch.manual_seed(seed)


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send what this process prints, C libraries included, to a file instead of the driver's terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)
