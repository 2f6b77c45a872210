"""Train on the caller's Ray: plan, run the workers, and let the output appear whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.data
import ray.train
import ray.train.torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from llamafarm_ray.config import Config, recorded
from llamafarm_ray.errors import ClusterError, ConflictError, LlamaFarmError, StorageError
from llamafarm_ray.models.tokenizer import quiet_libraries
from llamafarm_ray.storage import Location
from llamafarm_ray.storage.copying import check_output
from llamafarm_ray.storage.locks import try_exclusive
from llamafarm_ray.training.checkpoints import CheckpointStore
from llamafarm_ray.training.entry import train_worker
from llamafarm_ray.training.fault_tolerance.attempts import EndOfAttempts
from llamafarm_ray.training.fault_tolerance.branching import BeginWith, branch
from llamafarm_ray.training.fault_tolerance.channel import ProgressChannel
from llamafarm_ray.training.fault_tolerance.failures import clean_error
from llamafarm_ray.training.fault_tolerance.unfinished import continue_or_begin, end_publication, has_checkpoint
from llamafarm_ray.training.handover import collect_output
from llamafarm_ray.training.methods import find_method
from llamafarm_ray.training.monitoring.failed_run import record_failure
from llamafarm_ray.training.objectives import find_objective
from llamafarm_ray.training.plan.identity import read_facts
from llamafarm_ray.training.plan.inputs import TrainingCallbacks, TrainingInputs
from llamafarm_ray.training.plan.job import RunFolder, TrainingJob
from llamafarm_ray.training.plan.planning import Plan, make_plan
from llamafarm_ray.training.publishing import publish
from llamafarm_ray.training.result import TrainingResult, WorkerOutcome
from llamafarm_ray.types import DeviceUse, ModelKind

if TYPE_CHECKING:
    from ray.actor import ActorHandle

__all__ = ["train"]

_POLL_S = 0.5
_RAY_TRAIN = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
}
"""Its controller hears sooner that workers have ended, and gives stopped ones up in a minute instead of ten: where all
of them stand still, none is left to end by itself. It waits for 15 s for room, not for a minute, before it looks again
how many workers have room: after a machine was lost, it counts on that machine until Ray has given it up."""
_NEVER_S = 10.0 * 365 * 86400
_STOP_S = 120.0
"""Seconds that workers may take to write a checkpoint and end when asked."""
_log = logging.getLogger(__name__)


def train(
    config: Config,
    inputs: TrainingInputs,
    output: Path,
    *,
    callbacks: TrainingCallbacks | None = None,
    overwrite: bool = False,
    restart: bool = False,
    begin_with: BeginWith | None = None,
) -> TrainingResult:
    """Fine-tune a base model, on the Ray cluster that the caller is connected to.

    A run that ended early, for whatever reason, goes on when `train` is called again with the same configuration, rows
    and output: from its last whole checkpoint, to the same result.

    Args:
        config: ``fine_tuning``, ``seed``, ``monitoring`` and ``dataset.preprocessing.max_length`` are used.
        output: the folder to make: an adapter or a model, the tokenizer, ``training.json``, ``report.html``,
            ``history.jsonl``, ``tensorboard/``. It appears whole, by a rename; if the process is killed between setting
            an older one aside and that, the next call with this output puts it in place.
        callbacks: callbacks that hear of the run's course.
        overwrite: replace ``output`` if it exists.
        restart: forget an unfinished run with this output.
        begin_with: checkpoint of another run, of the same model, rows and method; None: the base model's weights.
            An unfinished run with this output goes on by itself.

    Returns:
        The content of ``training.json``.

    Raises:
        InputError: the base model or the rows are unusable.
        UserError: the chat template, ``target_modules`` or the number of workers don't fit.
        UnsupportedError: method, objective or precision, or their combination with the strategy, can't be trained.
        ConflictError: ``output`` exists, or another run writes to it, or an unfinished one with other settings does;
            or `begin_with` is no start for this run.
        ClusterError: Ray is not running here, or stopped while the run went on.
        StorageError: a disk is full, or the checkpoints' storage does not answer.
        TrainingError: the run failed; the hint names the folder that is left of it.
        IntegrityError: the trained weights are empty or not finite, so they were not saved.
    """
    inputs, output = replace(inputs, base_model=inputs.base_model.absolute()), output.absolute()
    callbacks = callbacks or TrainingCallbacks()
    check_output(output, overwrite=overwrite)
    quiet_libraries()
    folder = RunFolder(output.parent / f".{output.name}.run")
    with _only_run(folder):
        run = _DriverRun(config, inputs, output, folder, callbacks, overwrite=overwrite)
        return run.resume_or_start(begin_with, restart=restart)


class _DriverRun:
    """A run as its driver sees it, which holds the run's folder.

    Args:
        output: the folder to make.
        callbacks: callbacks that hear of the run's course.
        overwrite: replace ``output`` if it exists.
    """

    def __init__(
        self,
        config: Config,
        inputs: TrainingInputs,
        output: Path,
        folder: RunFolder,
        callbacks: TrainingCallbacks,
        *,
        overwrite: bool,
    ) -> None:
        self._config = config
        self._inputs = inputs
        self._output = output
        self._folder = folder
        self._callbacks = callbacks
        self._overwrite = overwrite
        self._note = callbacks.on_note or _log.info

    def resume_or_start(self, begin_with: BeginWith | None, *, restart: bool) -> TrainingResult:
        """Return the result of a run that was about to publish it, or train to the end."""
        published = end_publication(self._folder, self._output, self._note)
        plan = self._plan(None if restart else read_facts(self._folder))
        store = CheckpointStore(
            Location(plan.job.checkpoints), fingerprint=plan.job.fingerprint, keep=plan.job.training.keep_checkpoints
        )
        if published is not None:
            result, facts = published
            if facts == plan.facts and not restart:
                return result
            check_output(self._output, overwrite=self._overwrite)
        continue_or_begin(plan.job, plan.facts, store, self._note, restart=restart)
        if begin_with is not None:
            _begin_with(plan, store, begin_with, self._note)
        return self._run_to_end(plan, store)

    def _plan(self, earlier: Mapping[str, object] | None) -> Plan:
        try:
            return make_plan(self._config, self._inputs, self._folder, self._note, earlier=earlier)
        except ray.exceptions.RayError as error:
            raise clean_error(error, "The rows could not be tokenised") from error

    def _run_to_end(self, plan: Plan, store: CheckpointStore) -> TrainingResult:
        """Run the workers, publish the output and remove the run's folder; a failed run's folder stays."""
        folder = self._folder
        try:
            folder.output.mkdir(parents=True, exist_ok=True)
            outcome = _run_workers(plan, self._callbacks, self._note)
            collect_output(plan.job)
            result = _describe(self._config, plan, outcome, self._inputs.lineage)
            publish(folder, self._output, result, overwrite=self._overwrite)
            store.clear()
        except OSError as error:
            failure = StorageError(f"The run's folder {folder.path} can't be written: {error}")
            _tell(plan.job, failure, self._note)
            raise failure from error
        except Exception as error:  # whatever ends a run is told to its trackers, and raised again
            _tell(plan.job, error, self._note)
            raise
        except BaseException:  # the keyboard, or a signal: a stop, and no failure
            if not has_checkpoint(store):
                shutil.rmtree(folder.path, ignore_errors=True)
            raise
        shutil.rmtree(folder.path, ignore_errors=True)
        return result


def _begin_with(plan: Plan, store: CheckpointStore, start: BeginWith, note: Callable[[str], None]) -> None:
    """Copy another run's checkpoint, unless this run has one of its own."""
    if not store.find():
        branch(plan.facts, store, start)
        note(f"The run begins after step {start.step}, with what {start.folder} had learnt.")


@contextlib.contextmanager
def _only_run(folder: RunFolder) -> Iterator[None]:
    """Hold the run's folder; it goes when nothing is in it but the lock."""
    with contextlib.ExitStack() as stack:
        try:
            is_ours = stack.enter_context(try_exclusive(folder.lock))
        except OSError as error:
            raise StorageError(f"The run's folder {folder.path} can't be made: {error}") from error
        if not is_ours:
            raise ConflictError(
                f"Another run writes to {folder.path}.", hint="Wait for it, end it, or choose another output."
            )
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if [path.name for path in folder.path.iterdir()] == [folder.lock.name]:
                    shutil.rmtree(folder.path)


def _tell(job: TrainingJob, error: Exception, note: Callable[[str], None]) -> None:
    """Tell of a failure wherever failures are told, and tell the failure where what is left lies."""
    problems = record_failure(job.observers, folder=job.folder.output, total_steps=job.num_steps, error=error)
    if isinstance(error, LlamaFarmError):
        error.hint = f"{error.hint} Logs and checkpoints are in {job.folder.path}.".lstrip()
    for problem in problems:
        note(problem)


def _run_workers(plan: Plan, callbacks: TrainingCallbacks, note: Callable[[str], None]) -> WorkerOutcome:
    """Run Ray Train in a thread, and pass its steps on in this one."""
    # On this machine: with another one the run would lose its driver's ear, and could not go on.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    channel = ray.remote(num_cpus=0, scheduling_strategy=here)(ProgressChannel).remote()
    for name, value in _RAY_TRAIN.items():
        os.environ.setdefault(name, value)
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llamafarm-train")
    run = executor.submit(_make_trainer(plan, channel).fit)
    try:
        while not _is_done(run):
            _pass_on(plan, channel, callbacks, note)
        _pass_on(plan, channel, callbacks, note)
    except ray.exceptions.RayError as error:
        raise ClusterError("The connection to Ray was lost while training.") from error
    except BaseException:  # a caller's hook may raise anything, and Ctrl-C comes at any point
        # Workers that wait for room in the cluster never hear of it; they end with the connection to it.
        if ray.get(channel.stop.remote()):
            wait([run], timeout=_STOP_S)
        raise
    finally:
        executor.shutdown(wait=False)
    lost: LlamaFarmError | None = None
    outcome: WorkerOutcome | None = None
    try:
        outcome = run.result().return_value
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        lost = clean_error(error, "Training failed")
    # What a worker said goes before what Ray, or another worker, makes of its end.
    failure = ray.get(channel.failure.remote()) or lost
    if failure is not None:
        raise failure
    if outcome is None:
        raise ClusterError("The workers ended without a result.")
    return outcome


def _is_done(run: Future[Any]) -> bool:
    try:
        run.exception(timeout=_POLL_S)
    except FutureTimeoutError:
        return False
    return True


def _pass_on(plan: Plan, channel: ActorHandle, callbacks: TrainingCallbacks, note: Callable[[str], None]) -> None:
    channel.look.remote()
    steps, notes, worker_s = ray.get(channel.take.remote())
    if callbacks.on_use is not None and worker_s > 0:
        workers = plan.workers
        callbacks.on_use(
            DeviceUse(worker_s if workers.use_gpu else worker_s * workers.num_cpus, on_gpu=workers.use_gpu)
        )
    for text in notes:
        note(text)
    if callbacks.on_progress is not None:
        for progress in steps:
            callbacks.on_progress(progress)


def _make_trainer(plan: Plan, channel: ActorHandle) -> ray.train.torch.TorchTrainer:
    job, workers = plan.job, plan.workers
    is_elastic = workers.min_workers < workers.num_workers
    # Every worker reads the whole stream and keeps its rows: Ray Train's split gives out blocks in the order that
    # workers ask, and drops what does not divide. So there is nothing that its manager of datasets has to do.
    rows = {"train": plan.train.dataset}
    if plan.validation is not None:
        rows["validation"] = plan.validation.dataset
    return ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "channel": channel, "rows": rows},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if workers.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(workers.min_workers, workers.num_workers) if is_elastic else workers.num_workers,
            use_gpu=workers.use_gpu,
            resources_per_worker={"CPU": workers.num_cpus} | ({"GPU": 1} if workers.use_gpu else {}),
            # A group that could grow is not stopped for it: it takes what there is when it starts, or starts again.
            elastic_resize_monitor_interval_s=_NEVER_S,
            placement_strategy="SPREAD" if (job.distributed.nodes or 1) > 1 else "PACK",
        ),
        run_config=ray.train.RunConfig(
            name=uuid.uuid4().hex[:8],  # what Ray Train remembers of an earlier attempt is not wanted
            storage_path=str(job.folder.ray),
            # The channel counts attempts that get nowhere; a run on machines that come and go may be lost often.
            failure_config=ray.train.FailureConfig(max_failures=-1),
            callbacks=[EndOfAttempts(channel)],
            logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
        ),
    )


def _describe(config: Config, plan: Plan, outcome: WorkerOutcome, lineage: Mapping[str, object]) -> TrainingResult:
    job = plan.job
    metrics = {"train_loss": outcome.losses[-1]}
    if outcome.validation_loss is not None:
        metrics["validation_loss"] = outcome.validation_loss
    return TrainingResult(
        method=job.method,
        kind=_kind(job),
        objective=job.objective,
        strategy=job.strategy,
        reasons=plan.reasons,
        num_workers=outcome.num_workers,
        precision=job.precision,
        num_rows=plan.train.num_rows,
        num_dropped=plan.train.num_dropped,
        num_steps=outcome.num_steps,
        num_tokens=outcome.num_tokens,
        num_counted=outcome.num_counted,
        num_trainable_parameters=outcome.num_trainable_parameters,
        seconds=outcome.seconds,
        losses=outcome.losses,
        metrics=metrics,
        config=recorded(config),
        lineage=dict(lineage),
    )


def _kind(job: TrainingJob) -> ModelKind:
    """Return the kind of the output. A whole model trained on vectors has no output head, so it is no base for text."""
    kind = find_method(job.method).kind
    return ModelKind.EMBEDDING if kind is ModelKind.BASE and find_objective(job.objective).task == "embedding" else kind
