"""Train on the caller's Ray: plan, run the workers, and let the output appear whole or not at all."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

import ray
import ray.data
import ray.train
import ray.train.torch

from llamafarm_ray.config import Config, resolved
from llamafarm_ray.errors import ClusterError, ConflictError, LlamaFarmError, StorageError, TrainingError
from llamafarm_ray.models.tokenizer import quiet_libraries
from llamafarm_ray.training.channel import ProgressChannel
from llamafarm_ray.training.entry import train_worker
from llamafarm_ray.training.failures import clean_error
from llamafarm_ray.training.job import RunFolder
from llamafarm_ray.training.methods import find_method
from llamafarm_ray.training.planning import Plan, make_plan
from llamafarm_ray.training.result import Progress, TrainingResult
from llamafarm_ray.training.shards import split

__all__ = ["train"]

_POLL_S = 0.25
_MAX_RESTARTS = 2


def train(
    config: Config,
    *,
    train_rows: ray.data.Dataset,
    validation_rows: ray.data.Dataset | None,
    base_model: Path,
    output: Path,
    on_progress: Callable[[Progress], None] | None = None,
    overwrite: bool = False,
    lineage: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Fine-tune a base model, on the Ray cluster that the caller is connected to.

    Args:
        config: ``fine_tuning``, ``seed``, ``monitoring`` and ``dataset.preprocessing.max_length`` are used. What of
            them has no engine yet is refused by `llamafarm_ray.config.refuse_unavailable`, before this.
        train_rows: rows with a column ``messages``.
        validation_rows: likewise; their loss is measured once, after the last step.
        base_model: a folder with config.json, safetensors and a tokenizer that has a chat template. Every node must
            be able to read it, and `output`'s parent.
        output: the folder to make: an adapter or a model, the tokenizer, ``training.json``, ``tensorboard/``. It
            appears whole, by a rename.
        on_progress: called in this thread after each step; a run that lost a worker repeats those since its last
            checkpoint. What it raises stops the run and is raised from here.
        overwrite: replace ``output`` if it exists.
        lineage: where the inputs came from, in plain values; ``training.json`` keeps it for the registry.

    Returns:
        What ``training.json`` holds.

    Raises:
        InputError: the base model or the rows are unusable.
        UserError: the chat template, ``target_modules`` or the number of workers don't fit.
        UnsupportedError: method, objective or precision, or their combination with the strategy, can't be trained.
        ConflictError: ``output`` exists.
        ClusterError: Ray is not running here, or stopped while the run went on.
        TrainingError: the run failed; the hint names the folder that is left of it.
        IntegrityError: what was trained is empty or not finite, so it was not saved.
    """
    base_model, output = base_model.absolute(), output.absolute()
    _check_output(output, overwrite=overwrite)
    quiet_libraries()
    folder = RunFolder(output.parent / f".{output.name}.{uuid.uuid4().hex[:8]}")
    try:
        plan = make_plan(
            config, train_rows=train_rows, validation_rows=validation_rows, base_model=base_model, folder=folder
        )
    except (ray.exceptions.RayError, ray.exceptions.RaySystemError) as error:
        raise clean_error(error, "The rows could not be tokenised") from error
    try:
        folder.output.mkdir(parents=True)
        outcome = _run_workers(plan, on_progress)
        result = _describe(config, plan, outcome, lineage or {})
        text = json.dumps(result.to_dict(), indent=2, allow_nan=False)
        (folder.output / "training.json").write_text(text + "\n", encoding="utf-8")
        _publish(folder, output, overwrite=overwrite)
    except OSError as error:
        raise StorageError(f"The run's folder {folder.path} can't be written: {error}") from error
    except LlamaFarmError as error:
        error.hint = f"{error.hint} Logs and checkpoints are in {folder.path}.".lstrip()
        raise
    except BaseException:  # the caller's own, from on_progress or the keyboard: nothing to look into
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    shutil.rmtree(folder.path, ignore_errors=True)
    return result


def _check_output(output: Path, *, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise ConflictError(
            f"The output {str(output)!r} exists already.", hint="Choose another folder, or overwrite it."
        )


def _run_workers(plan: Plan, on_progress: Callable[[Progress], None] | None) -> dict[str, Any]:
    """Run Ray Train in a thread, and pass its steps on in this one."""
    channel = ray.remote(num_cpus=0)(ProgressChannel).remote()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="llamafarm-train") as executor:
        trainer = _make_trainer(plan, channel)
        run = executor.submit(trainer.fit)
        try:
            while not _is_done(run):
                _pass_on(channel, on_progress)
            _pass_on(channel, on_progress)
        except ray.exceptions.RayError as error:
            raise ClusterError("The connection to Ray was lost while training.") from error
        except BaseException:
            channel.stop.remote()  # leaving the executor waits until the workers have stopped
            raise
    lost: LlamaFarmError | None = None
    outcome: dict[str, Any] = {}
    try:
        outcome = run.result().return_value
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        lost = clean_error(error, "Training failed")
    # What a worker said goes before what Ray, or another worker, makes of its end.
    failure = ray.get(channel.failure.remote()) or lost
    if failure is not None:
        raise failure
    return outcome


def _is_done(run: Future[Any]) -> bool:
    try:
        run.exception(timeout=_POLL_S)
    except FutureTimeoutError:
        return False
    return True


def _pass_on(channel: Any, on_progress: Callable[[Progress], None] | None) -> None:
    steps = ray.get(channel.take.remote())
    if on_progress is not None:
        for progress in steps:
            on_progress(progress)


def _make_trainer(plan: Plan, channel: Any) -> ray.train.torch.TorchTrainer:
    job, workers = plan.job, plan.workers
    # Each worker has datasets of its own, so none is left for Ray Train to split: its split gives out blocks in
    # the order workers ask, and drops what does not divide.
    datasets = {f"train-{rank}": shard for rank, shard in enumerate(split(plan.train, workers.num_workers))}
    if plan.validation is not None:
        shards = split(plan.validation, workers.num_workers)
        datasets |= {f"validation-{rank}": shard for rank, shard in enumerate(shards)}
    return ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "channel": channel},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if workers.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=workers.use_gpu,
            resources_per_worker={"CPU": workers.num_cpus} | ({"GPU": 1} if workers.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name="run",
            storage_path=str(job.folder.checkpoints),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=job.training.keep_checkpoints),
            failure_config=ray.train.FailureConfig(max_failures=_MAX_RESTARTS),
            logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
        ),
        datasets=datasets,
        dataset_config=ray.train.DataConfig(
            datasets_to_split=[], execution_options=ray.data.ExecutionOptions(preserve_order=True)
        ),
    )


def _describe(config: Config, plan: Plan, outcome: dict[str, Any], lineage: Mapping[str, Any]) -> TrainingResult:
    job = plan.job
    metrics = {"train_loss": outcome["losses"][-1]}
    if outcome["validation_loss"] is not None:
        metrics["validation_loss"] = outcome["validation_loss"]
    return TrainingResult(
        method=job.method,
        kind=find_method(job.method).kind,
        objective=job.objective,
        strategy=job.strategy,
        reasons=plan.reasons,
        num_workers=plan.workers.num_workers,
        precision=job.precision,
        num_rows=plan.train.num_rows,
        num_dropped=plan.train.num_dropped,
        num_steps=outcome["step"],
        num_tokens=outcome["num_tokens"],
        num_trained_tokens=outcome["num_trained_tokens"],
        num_trainable_parameters=outcome["num_trainable_parameters"],
        seconds=outcome["seconds"],
        losses=outcome["losses"],
        metrics=metrics,
        config=resolved(config),
        lineage=dict(lineage),
    )


def _publish(folder: RunFolder, output: Path, *, overwrite: bool) -> None:
    """Rename what was made to ``output``."""
    if not any(folder.output.glob("*.safetensors")):
        raise TrainingError(
            f"The first worker wrote to {folder.output} on its machine, which this one does not see.",
            hint="Put the output on storage that all nodes share.",
        )
    if output.exists():
        if not overwrite:
            raise ConflictError(f"The output {str(output)!r} was made by someone else meanwhile.")
        output.rename(folder.path / "replaced")
    folder.output.rename(output)
