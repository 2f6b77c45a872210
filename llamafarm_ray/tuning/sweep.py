"""Run a sweep on Ray Tune: it starts trials, compares them and stops those that do worse; the journal remembers."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from llamafarm_ray.errors import ClusterError, ConflictError, LlamaFarmError
from llamafarm_ray.storage.locks import try_exclusive
from llamafarm_ray.tuning.budget import Budget
from llamafarm_ray.tuning.journal import Journal, Record, State, SweepFacts
from llamafarm_ray.tuning.plan import Planner
from llamafarm_ray.tuning.population import Population
from llamafarm_ray.tuning.space import base_table
from llamafarm_ray.tuning.trial import POINT, VALUE, Place, RunTrial, trainable

__all__ = ["Sweep", "SweepResult", "best_of", "only_sweep", "run_sweep"]

_ENVIRONMENT: Final = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal holds what matters
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the caller's
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial's last word has no point of comparison
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
_RESTARTS: Final = 2
"""How often a trial is started again whose driver's process or machine was lost."""
_DRIVER: Final = {"CPU": 0, "memory": 1}
"""What Ray reserves for a trial's driver, which only waits: a byte, as it can't be nothing. Workers ask for theirs."""
_LIVE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """How trials are run.

    Args:
        facts: what the sweep is.
        folder: its state: ``journal.jsonl`` and ``trials/``, on storage that all nodes share.
        concurrent: most trials at once.
        num_points: points of comparison of the longest trial; 0: trials are not compared on their way.
        reduction_factor: of so many trials one goes on after a comparison.
        keep_models: how many of the best trials keep their weights.
        population: compares trials and lets new ones take the place of the worst; None: halving does.
    """

    facts: SweepFacts
    folder: Path
    concurrent: int
    num_points: int = 0
    reduction_factor: int = 3
    keep_models: int = 1
    population: Population | None = None

    def trial_folder(self, record: Record) -> Path:
        """Everything of a trial."""
        return self.folder / "trials" / record.name

    def output(self, record: Record) -> Path:
        """What a trial trained."""
        return self.trial_folder(record) / "model"

    def place(self, record: Record, records: Mapping[int, Record]) -> Place:
        """Where a trial works."""
        output = self.output(record).absolute()
        if self.population is None:
            return Place(output)
        parent = None if record.parent is None else self._kept(records[record.parent])
        return Place(output, self._kept(record), parent, record.begins_at)

    def _kept(self, record: Record) -> Path:
        return self.trial_folder(record).absolute() / "kept"


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep found.

    Args:
        records: of all trials, by number.
        best: the finished trial with the best metric; None where none finished.
        ended_because: why no further trial began.
        seconds: over all sessions.
    """

    records: list[Record]
    best: Record | None
    ended_because: str
    seconds: float


def best_of(records: Mapping[int, Record], *, lower_is_better: bool) -> list[Record]:
    """Finished trials, the best first."""
    finished = [
        record
        for record in records.values()
        if record.state is State.FINISHED and record.value is not None and math.isfinite(record.value)
    ]
    sign = 1 if lower_is_better else -1
    return sorted(finished, key=lambda record: (sign * (record.value or 0.0), record.number))


@contextlib.contextmanager
def only_sweep(folder: Path) -> Iterator[None]:
    """Hold a sweep's folder.

    Raises:
        ConflictError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with try_exclusive(folder / "lock") as is_ours:
        if not is_ours:
            raise ConflictError(
                f"Another sweep works in {folder}.", hint="Wait for it, end it, or choose another --output."
            )
        yield


def run_sweep(
    sweep: Sweep,
    journal: Journal,
    planner: Planner,
    run_trial: RunTrial,
    *,
    budget: Budget,
    on_change: Callable[[Mapping[int, Record]], None] | None = None,
) -> SweepResult:
    """Run trials until there are no more, or the budget is over. Needs a connected Ray, and `only_sweep`.

    Args:
        sweep: how.
        journal: begun; what it holds is gone on with.
        planner: of this journal.
        run_trial: trains one; it is called in a process of its own, anywhere in the cluster, and must be picklable.
        budget: of the sweep.
        on_change: called in this thread when something happened, and every second.

    Raises:
        ClusterError: Ray was lost.
        StorageError: the journal can't be written.
    """
    watch = _Watch(sweep, journal, planner, budget, on_change or (lambda _: None))
    scratch = sweep.folder / "ray"
    if not budget.is_over:
        with _environment(sweep.concurrent):
            tuner = tune.Tuner(
                tune.with_resources(trainable(run_trial), _DRIVER),
                tune_config=tune.TuneConfig(
                    search_alg=_Proposals(watch), scheduler=_scheduler(sweep, journal), num_samples=-1
                ),
                run_config=tune.RunConfig(
                    name="tune",
                    storage_path=str(scratch.absolute()),
                    callbacks=[_Callback(watch)],
                    failure_config=tune.FailureConfig(max_failures=_RESTARTS),
                    stop=_AtTheEnd(watch),
                    verbose=0,
                ),
            )
            try:
                tuner.fit()
            except ray.exceptions.RayError as error:
                raise ClusterError("The connection to Ray was lost during the sweep.") from error
            except tune.TuneError as error:
                last = str(error).strip().rpartition("\n")[2]
                raise watch.error or ClusterError(f"Ray Tune gave up: {last}") from error
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    if watch.error is not None:
        raise watch.error
    if budget.is_over and any(record.state is State.RUNNING for record in journal.records.values()):
        watch.clean_up()
    else:
        watch.clean_up(is_done=True)
    finished = best_of(journal.records, lower_is_better=sweep.facts.lower_is_better)
    because = "the budget is used up" if budget.is_over else planner.ended_because
    spent = budget.spent_s + budget.session_s
    return SweepResult(list(journal.records.values()), finished[0] if finished else None, because, spent)


@contextlib.contextmanager
def _environment(concurrent: int) -> Iterator[None]:
    wanted = {**_ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG": str(concurrent)}  # else they start one after the other
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _scheduler(sweep: Sweep, journal: Journal) -> TrialScheduler:
    """Asynchronous successive halving (Li et al. 2020), told what earlier sessions saw; a population; or none."""
    if sweep.num_points < 2:  # noqa: PLR2004 - the only point would be the end
        return FIFOScheduler()
    if sweep.population is not None:
        return _PopulationScheduler(sweep.population, journal)
    scheduler = AsyncHyperBandScheduler(
        time_attr=POINT,
        metric=VALUE,
        mode="min" if sweep.facts.lower_is_better else "max",
        max_t=sweep.num_points,
        grace_period=1,
        reduction_factor=sweep.reduction_factor,
        stop_last_trials=False,  # who gets there has nearly ended
    )
    for record in journal.records.values():
        if record.state in {State.FINISHED, State.STOPPED}:
            earlier = SimpleNamespace(trial_id=f"earlier-{record.number}")
            scheduler.on_trial_add(None, earlier)
            for point, value in sorted(record.points.items()):
                scheduler.on_trial_result(None, earlier, {POINT: point, VALUE: value})
    return scheduler


class _PopulationScheduler(FIFOScheduler):  # type: ignore[misc]  # Ray has no types
    """Ends trials that a population gives up; the planner then lets others take their place."""

    def __init__(self, population: Population, journal: Journal) -> None:
        super().__init__()
        self._population = population
        self._journal = journal

    def __reduce__(self) -> tuple[type[TrialScheduler], tuple[()]]:
        return FIFOScheduler, ()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        del tune_controller
        if POINT not in result:
            return str(TrialScheduler.CONTINUE)
        number, point, value = trial.config["trial"], int(result[POINT]), float(result[VALUE])
        gives_up = self._population.gives_up(number, point, value, self._journal.records)
        return str(TrialScheduler.STOP if gives_up else TrialScheduler.CONTINUE)


@dataclass(slots=True)
class _Watch:
    """What the parts of Ray Tune that ask and tell have in common."""

    sweep: Sweep
    journal: Journal
    planner: Planner
    budget: Budget
    on_change: Callable[[Mapping[int, Record]], None]
    running: dict[int, float] = field(default_factory=dict)
    ended: dict[int, State] = field(default_factory=dict)
    error: BaseException | None = None
    _shown_at: float = 0.0

    def begin(self) -> dict[str, Any] | str | None:
        """The settings of the next trial; None if none may begin now, `Searcher.FINISHED` if none will."""
        if len(self.running) >= self.sweep.concurrent:
            return None
        try:
            task = self.planner.next()
        except Exception as error:  # noqa: BLE001 - Ray Tune would bury it
            self.error = error
            task = None
        if task is None:
            return None if self.planner.is_waiting and self.error is None else str(Searcher.FINISHED)
        self.running[task.record.number] = time.monotonic()
        self.show()
        place = self.sweep.place(task.record, self.journal.records)
        return {"trial": task.record.number, "config": json.dumps(base_table(task.config)), "place": place}

    def result(self, number: int, result: Mapping[str, Any]) -> None:
        """A trial said something."""
        if "state" in result:
            self._outcome(number, result)
        elif POINT in result:
            self.journal.point(number, int(result[POINT]), float(result[VALUE]))
        self.show()

    def _outcome(self, number: int, result: Mapping[str, Any]) -> None:
        """A trial said how it ended."""
        state, reason = State(result["state"]), str(result.get("reason", ""))
        metrics, name = dict(result.get("metrics", {})), self.sweep.facts.metric
        value = metrics.get(name)
        if state is State.FINISHED and (value is None or not math.isfinite(value)):
            state, value = State.FAILED, None
            known = ", ".join(sorted(metrics)) or "none"
            reason = f"The result's {name} is {metrics.get(name, 'not there')}; its metrics are: {known}."
        self._end(number, state, value=value, metrics=metrics, reason=reason)

    def complete(self, number: int) -> None:
        """Ray Tune is through with a trial: it ended, was stopped for being worse, or time was up."""
        if number in self.ended or number not in self.running:
            return
        if self.over():
            self._end(number, State.RUNNING, reason="The budget was over; a larger one goes on with it.")
            return
        points = self.journal.records[number].points
        last = max(points, default=0)
        there = sum(last in record.points for record in self.journal.records.values())
        reason = f"Not among the best 1/{self.sweep.reduction_factor} of {there} trials at comparison {last}."
        if self.sweep.population is not None:
            reason = f"Among the worst {self.sweep.population.quantile:.0%} of {there} trials at comparison {last}."
        self._end(number, State.STOPPED, reason=reason)

    def lost(self, number: int, reason: str) -> None:
        """A trial's process was lost more often than it is started again."""
        if number not in self.ended:
            self._end(number, State.FAILED, reason=reason)

    def _end(self, number: int, state: State, **details: Any) -> None:
        seconds = time.monotonic() - self.running.pop(number, time.monotonic())
        self.ended[number] = state
        try:
            self.journal.ended(number, state, seconds=seconds, **details)
        except LlamaFarmError as error:
            self.error = error
            return
        record = self.journal.records[number]
        if state is not State.RUNNING:
            self.planner.tell(record)
        self.clean_up()
        self.show()

    def clean_up(self, *, is_done: bool = False) -> None:
        """Remove what nobody will need: trials that were stopped, and the weights of those that others beat.

        What failed keeps its logs. In a population others may go on from any trial, until the sweep is done.
        """
        ranked = best_of(self.journal.records, lower_is_better=self.sweep.facts.lower_is_better)
        for record in self.journal.records.values():
            folder = self.sweep.trial_folder(record)
            if record.state is State.STOPPED:
                others = [] if self.sweep.population is None or is_done else ["kept"]
                _remove_all_but(folder, others)
            elif is_done:
                shutil.rmtree(folder / "kept", ignore_errors=True)
        for record in ranked[self.sweep.keep_models :]:
            for path in self.sweep.output(record).glob("*.safetensors"):
                path.unlink(missing_ok=True)

    def over(self) -> bool:
        """Whether everything is to end now."""
        return self.budget.is_over or self.error is not None

    def show(self, *, now: bool = True) -> None:
        """Tell the caller, if it is time."""
        if now or time.monotonic() - self._shown_at >= _LIVE_S:
            self._shown_at = time.monotonic()
            self.on_change(self.journal.records)


def _remove_all_but(folder: Path, names: Sequence[str]) -> None:
    if not names:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.is_dir():
        for path in folder.iterdir():
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)


class _Proposals(Searcher):  # type: ignore[misc]  # Ray has no types
    """Ray Tune asks it for trials. Like the others below it stays in this process; a copy on disk is an empty one."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        return Searcher, ()

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        del metric, mode, config, spec
        return True

    def suggest(self, trial_id: str) -> Any:
        del trial_id
        return self._watch.begin()

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """The callback learns the same."""

    def save(self, checkpoint_path: str) -> None:
        """The journal holds all there is to know."""

    def restore(self, checkpoint_path: str) -> None:
        """Likewise."""


class _Callback(tune.Callback):  # type: ignore[misc]  # likewise
    """Ray Tune tells it what happens."""

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        return tune.Callback, ()

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        del iteration, trials, info
        self._watch.show(now=False)

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        del iteration, trials, info
        self._watch.result(trial.config["trial"], result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        del iteration, trials, info
        self._watch.complete(trial.config["trial"])

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        del iteration, trials, info
        self._watch.lost(trial.config["trial"], "The trial's process was lost; is there enough memory?")


class _AtTheEnd(tune.Stopper):  # type: ignore[misc]  # likewise
    """Ray Tune asks it whether to stop."""

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch

    def __reduce__(self) -> tuple[type[tune.Stopper], tuple[()]]:
        return tune.Stopper, ()

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        return self._watch.over()
