"""Work of one Ray Train worker, from an empty process to a saved model."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from safetensors import SafetensorError

from llamafarm_ray.errors import IntegrityError, LlamaFarmError, StorageError, TrainingError
from llamafarm_ray.models.adapters.fused_lora import use_fused_lora
from llamafarm_ray.models.folder import TOKENIZER_FILES
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries
from llamafarm_ray.storage import Location
from llamafarm_ray.training.batch_plan import BatchPlan
from llamafarm_ray.training.batches import Layout, Window, windows
from llamafarm_ray.training.checkpoints import CheckpointStore, RunState
from llamafarm_ray.training.compute.attention import use_packed_attention
from llamafarm_ray.training.compute.kernels import use_fused_kernels
from llamafarm_ray.training.fault_tolerance.channel import ProgressReporter
from llamafarm_ray.training.fault_tolerance.failures import is_lost_worker, worker_error
from llamafarm_ray.training.fault_tolerance.heartbeat import Heartbeat
from llamafarm_ray.training.fault_tolerance.notices import Notices
from llamafarm_ray.training.handover import hand_over_output, on_this_node
from llamafarm_ray.training.loop import mean_loss, train_steps
from llamafarm_ray.training.methods import Method, Precision, find_method
from llamafarm_ray.training.monitoring.flops import ModelFlops
from llamafarm_ray.training.monitoring.observers import Observers
from llamafarm_ray.training.monitoring.run_meters import Devices
from llamafarm_ray.training.objectives import Objective, find_objective
from llamafarm_ray.training.output import output_to
from llamafarm_ray.training.plan.job import TrainingJob
from llamafarm_ray.training.result import Progress, WorkerOutcome
from llamafarm_ray.training.schedule import Schedule
from llamafarm_ray.training.strategies import Place, Strategy, find_strategy
from llamafarm_ray.training.tokens.stream import read_epoch

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from transformers import PreTrainedModel

__all__ = ["run_worker"]


def run_worker(settings: dict[str, Any]) -> WorkerOutcome | None:
    """Ray Train's entry point: run the job, and turn whatever goes wrong into an error of ours.

    Args:
        settings: ``job``, a `TrainingJob`, ``channel``, the handle of a `ProgressChannel` actor, and ``rows``, the
            datasets ``train`` and perhaps ``validation``: of Ray Data, or `TokenShards`.

    Returns:
        the run's end; None where the channel holds a failure.
    """
    job, channel, rows = settings["job"], settings["channel"], settings["rows"]
    context = ray.train.get_context()
    rank = context.get_world_rank()
    try:
        if ray.get(channel.failure.remote()) is not None:
            return None  # another try would end the same way; the driver raises it
        with output_to(job.folder.logs / f"worker-{rank}.log"):
            return _run_reported(job, channel, rows, rank, context.get_world_size())
    except ray.exceptions.RayActorError:
        return None  # the channel is gone, and with it the driver's word; it says so itself


def _run_reported(
    job: TrainingJob, channel: ActorHandle, rows: Mapping[str, object], rank: int, num_workers: int
) -> WorkerOutcome:
    """Run the job, and tell the channel what no other try can mend."""
    heartbeat = Heartbeat(channel, _attempt(channel, rank, num_workers), rank)
    try:
        with heartbeat.slow("fetching the base model"):
            job = on_this_node(job)
        return _Run(job, channel, rows, heartbeat).run()
    except Exception as error:  # the process boundary: the driver can't unpickle every library's errors
        failure = worker_error(error)
        if isinstance(error, LlamaFarmError) or not is_lost_worker(error):
            ray.get(channel.fail.remote(failure))
        with contextlib.suppress(OSError):  # the log may be on the very disk that is full
            traceback.print_exc()
        raise failure from error
    finally:
        heartbeat.close()


def _attempt(channel: ActorHandle, rank: int, num_workers: int) -> int:
    """The number of this start of the workers, the same on all of them."""
    attempt = [ray.get(channel.begin.remote(num_workers)) if rank == 0 else 0]
    if num_workers > 1:
        torch.distributed.broadcast_object_list(attempt, src=0)
    return attempt[0]


class _Run:
    """One start of one worker.

    Args:
        channel: handle of a `ProgressChannel` actor.
        rows: datasets ``train`` and perhaps ``validation``, materialised by Ray Data, or `TokenShards`.
    """

    def __init__(
        self, job: TrainingJob, channel: ActorHandle, rows: Mapping[str, object], heartbeat: Heartbeat
    ) -> None:
        quiet_libraries()
        self._job = job
        self._channel = channel
        self._rows = rows
        self._heartbeat = heartbeat
        self._place = _find_place(job.distributed.cpus_per_worker)
        self._objective = find_objective(job.objective, job.objective_settings, max_length=job.max_length)
        self._method = find_method(job.method)(job.parameters)
        self._layout = _layout(job, self._place.device)
        self._store = CheckpointStore(
            Location(job.checkpoints, is_patient=True),
            fingerprint=job.fingerprint,
            keep=job.training.keep_checkpoints,
        )
        self._strategy = find_strategy(job.strategy)(
            self._place, Precision(job.precision), job.training, job.distributed
        )
        self._reporter: ProgressReporter | None = None
        self._observers: Observers | None = None
        self._stopped_by_driver = False
        self._notices = Notices()

    def run(self) -> WorkerOutcome:
        """Train to the end."""
        job, strategy = self._job, self._strategy
        with self._heartbeat.slow("loading the model"):
            _seed(job.seed)  # new weights start alike on all workers
            module = _build_model(job, self._method, self._objective, strategy)
            strategy.prepare(module)
            if self._objective.needs_reference and not hasattr(module, "disable_adapter"):
                strategy.keep_reference(_load_reference(job, self._method, self._objective, strategy))
        with self._heartbeat.slow("reading a checkpoint"):
            state = self._store.restore(strategy)
        if self._place.rank == 0:
            ray.get(self._channel.restored.remote(state.step))
            self._reporter = ProgressReporter(self._channel, job.training.log_every_s)
            self._observers = self._open_observers(module, state)
        try:
            outcome = self._train(module, state)
        except Exception as error:  # whatever it was, trackers hear that the run failed, and it is raised again
            # A lost worker's neighbours fail too, but the run is tried again.
            if self._observers is not None and not self._stopped_by_driver and not is_lost_worker(error):
                self._observers.fail()
            raise
        finally:
            if self._observers is not None:
                self._observers.close()
        with self._heartbeat.slow("handing over the output"):
            if self._place.rank == 0:
                hand_over_output(job)
            strategy.sum([0.0])  # all wait: a worker that ends early gives no sign of life
        return outcome

    def _train(self, module: PreTrainedModel, state: RunState) -> WorkerOutcome:
        job, strategy = self._job, self._strategy
        if state.step < job.num_steps and not _is_patience_over(state, job.training.early_stopping_patience):
            self._heartbeat.moved("training")
            train_steps(
                strategy,
                self._objective,
                self._windows("train", job.plan, first_step=state.step, num_steps=job.num_steps),
                schedule=Schedule.of(job.training, job.num_steps),
                state=state,
                seed=job.seed,
                after_step=self._after_step,
            )
        if self._stopped_by_driver:
            raise TrainingError(f"The run was stopped after step {state.step}.")
        if job.validation_plan is not None and (not state.validation or state.validation[-1][0] != state.step):
            self._validate(state)
        with self._heartbeat.slow("saving"):
            saved_loss = self._take_best(state) if job.training.keep_best else None
            num_trainable = _save(job, self._method, self._objective, module, strategy)
        if self._reporter is not None:
            self._reporter.flush()
        if self._observers is not None:
            self._observers.finish({"num_trainable_parameters": num_trainable})
        return WorkerOutcome(
            num_steps=state.step,
            num_tokens=state.num_tokens,
            num_counted=state.num_counted,
            seconds=state.seconds,
            losses=state.losses,
            validation_loss=state.last_validation_loss if saved_loss is None else saved_loss,
            num_workers=self._place.num_workers,
            num_trainable_parameters=num_trainable,
        )

    def _take_best(self, state: RunState) -> float | None:
        """Put the weights of the lowest validation loss into the model. Returns that loss; None if they stay."""
        if state.best_step in {None, state.step}:
            return None
        for stored in self._store.by_loss(self._strategy):
            try:
                self._store.load_weights(self._strategy, stored)
            except IntegrityError as error:  # the same on all workers
                print(f"{error}; the next best is taken.", file=sys.stderr)  # noqa: T201 - into the worker's log
            else:
                return stored.validation_loss
        return None

    def _on_any(self, *flags: bool) -> list[bool]:
        """Return each flag, raised where it is raised on any worker."""
        return [number > 0 for number in self._strategy.sum([float(flag) for flag in flags])]

    def _after_step(self, state: RunState, progress: Progress) -> bool:
        """Report, and do what is due. All workers call it, and decide alike."""
        job, stops_early = self._job, False
        self._heartbeat.moved("training", state.step)
        if self._observers is not None and self._reporter is not None:
            seen = self._observers.step(progress)
            self._reporter.step(seen.progress or progress)
            stops_early = seen.stop is not None
        by_driver, early, look = self._on_any(self._heartbeat.stop_asked, stops_early, self._notices.is_due)
        preempted = look and self._notices.is_there_a_new_one()

        is_last = state.step == job.num_steps
        improved = False
        if job.validation_plan is not None and state.step % job.evaluate_every_steps == 0:
            early = self._validate(state) or early
            improved = state.best_step == state.step
        due = state.step % job.checkpoint_every_steps == 0 or (job.training.keep_best and improved)
        # Not after the last step, when the output follows.
        if (due or by_driver or preempted) and not is_last:
            self._checkpoint(state)
        self._stopped_by_driver = by_driver and not is_last
        return by_driver or early

    def _validate(self, state: RunState) -> bool:
        """Measure the validation loss. Returns whether the run shall end early."""
        plan = self._job.validation_plan
        assert plan is not None  # the callers look
        every_row_once = self._windows("validation", plan, first_step=0, num_steps=plan.num_windows)
        with self._heartbeat.slow("validating"):
            loss = mean_loss(self._strategy, self._objective, self._ticking(every_row_once))
        state.validation.append((state.step, loss))
        self._heartbeat.moved("training")
        wish = float(_is_patience_over(state, self._job.training.early_stopping_patience))
        if self._observers is not None:
            wish += float(self._observers.validation(loss, state.step).stop is not None)
        return self._strategy.sum([wish])[0] > 0

    def _ticking(self, windows: Iterator[Window]) -> Iterator[Window]:
        for window in windows:
            self._heartbeat.touch()
            if self._observers is not None:
                self._observers.beat()
            yield window

    def _checkpoint(self, state: RunState) -> None:
        started = time.perf_counter()
        with self._heartbeat.slow("writing a checkpoint"):
            self._store.save(self._strategy, state)
        if self._observers is not None:
            self._observers.checkpoint(state.step, time.perf_counter() - started)

    def _windows(self, name: str, plan: BatchPlan, *, first_step: int, num_steps: int) -> Iterator[Window]:
        return windows(
            plan,
            functools.partial(read_epoch, self._rows[name], seed=self._job.seed),
            rank=self._place.rank,
            num_workers=self._place.num_workers,
            first_step=first_step,
            num_steps=num_steps,
            layout=self._layout,
        )

    def _open_observers(self, module: PreTrainedModel, state: RunState) -> Observers:
        job, device = self._job, self._place.device
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        return Observers.open(
            job.observers,
            folder=job.folder.output,
            total_steps=job.num_steps,
            steps_done=state.step,
            flops=ModelFlops.of(
                module,
                context_tokens=job.context_tokens,
                device_name=gpu,
                precision=job.precision,
                num_devices=self._place.num_workers,
            ),
            devices=Devices(gpu or "cpu", self._place.num_workers),
        )


def _layout(job: TrainingJob, device: torch.device) -> Layout:
    """Return the layout of a run's micro-batches; the kernel of GPUs takes no shared prefix."""
    pad_id = load_tokenizer(job.base_model).pad_token_id
    return Layout(job.packed, pad_id, shares_prefix=device.type == "cpu")


def _is_patience_over(state: RunState, patience: int | None) -> bool:
    """Return True if the last ``patience`` validations were no better than one before them."""
    steps = [step for step, _ in state.validation]
    return patience is not None and len(steps) - 1 - steps.index(state.best_step or 0) >= patience


def _load(job: TrainingJob, method: Method, objective: Objective, strategy: Strategy) -> PreTrainedModel:
    model = method.load(job.base_model, precision=strategy.precision, device=strategy.place.device, task=objective.task)
    if job.packed:
        use_packed_attention(model)
    return model


def _load_reference(job: TrainingJob, method: Method, objective: Objective, strategy: Strategy) -> PreTrainedModel:
    """The base model as it was, in the format that forward passes compute in: nothing of it is trained."""
    model = Method.load(
        method, job.base_model, precision=strategy.precision, device=strategy.place.device, task=objective.task
    )
    if job.packed:
        use_packed_attention(model)
    return model


def _build_model(job: TrainingJob, method: Method, objective: Objective, strategy: Strategy) -> PreTrainedModel:
    with strategy.loading():
        model = _load(job, method, objective, strategy)
    use_fused_kernels(model, job.training.fused_kernels, strategy.place.device)
    model = method.wrap(model, base_model=job.base_model, task=objective.task)
    if strategy.place.device.type == "cpu" and not strategy.shards_weights and not job.training.compile:
        use_fused_lora(model)
    if job.training.gradient_checkpointing:
        # Gathering weights for the second forward is hidden from the newer, non-reentrant kind.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": strategy.shards_weights})
        model.enable_input_require_grads()
    if job.training.compile:
        model.compile(dynamic=True)
    return model


def _save(job: TrainingJob, method: Method, objective: Objective, module: PreTrainedModel, strategy: Strategy) -> int:
    """Write the trained weights, the tokenizer, and the objective's own files, on rank 0.

    Returns:
        The number of trained parameters.
    """
    weights = strategy.weights()
    if strategy.place.rank != 0:
        return 0
    folder = job.folder.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
        method.save(module, weights, folder)
        # Copied rather than saved anew, so that they are the base model's very bytes.
        for name in TOKENIZER_FILES:
            if (job.base_model / name).is_file():
                shutil.copyfile(job.base_model / name, folder / name)
        base = module.get_base_model() if hasattr(module, "get_base_model") else module
        width = base.config.get_text_config().hidden_size
        objective.write_beside(folder, width=width, max_length=job.max_length)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"The trained model can't be written to {folder}: {error}") from error
    return sum(tensor.numel() for tensor in weights.values())


def _find_place(num_cpus: int | None) -> Place:
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        # Workers of one machine share its cores; more threads than cores only get in each other's way.
        torch.set_num_threads(num_cpus or max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    return Place(context.get_world_rank(), context.get_world_size(), device)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries that use the global generator
    torch.manual_seed(seed)
