"""Run a sweep on Ray Tune: it starts trials, compares them and stops those that do worse; the journal remembers."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Final

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from llamafarm_ray.errors import ClusterError
from llamafarm_ray.tuning.budget import Budget
from llamafarm_ray.tuning.journal import Journal, Record, State, best_of
from llamafarm_ray.tuning.plan import Planner
from llamafarm_ray.tuning.population import Population
from llamafarm_ray.tuning.sweep import Sweep, SweepResult
from llamafarm_ray.tuning.trial import POINT, VALUE, RunTrial, trainable
from llamafarm_ray.tuning.watch import Watch

__all__ = ["run_sweep"]

_ENVIRONMENT: Final = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal holds what matters
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the caller's
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial's last word has no point of comparison
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
_RESTARTS: Final = 2
"""Restarts of a trial whose driver's process or machine was lost."""
_DRIVER: Final = {"CPU": 0, "memory": 1}
"""Ray's reservation for a trial's driver, which only waits: a byte, as it can't be nothing. Workers have their own."""


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
        journal: begun; what it holds is gone on with.
        run_trial: trains one; it is called in a process of its own, anywhere in the cluster, and must be picklable.
        on_change: called in this thread when something happened, and every second.

    Raises:
        ClusterError: Ray was lost.
        StorageError: the journal can't be written.
    """
    watch = Watch(sweep, journal, planner, budget, on_change or (lambda _: None))
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
    if sweep.num_points < 2:  # the only point would be the end
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

    def on_trial_result(self, tune_controller: object, trial: Trial, result: Mapping[str, Any]) -> str:
        del tune_controller
        if POINT not in result:
            return str(TrialScheduler.CONTINUE)
        number, point, value = trial.config["trial"], int(result[POINT]), float(result[VALUE])
        gives_up = self._population.gives_up(number, point, value, self._journal.records)
        return str(TrialScheduler.STOP if gives_up else TrialScheduler.CONTINUE)


class _Proposals(Searcher):  # type: ignore[misc]  # Ray has no types
    """Ray Tune asks it for trials. Like the others below it stays in this process; a copy on disk is an empty one."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        return Searcher, ()

    def set_search_properties(self, metric: str | None, mode: str | None, config: object, **spec: object) -> bool:
        del metric, mode, config, spec
        return True

    def suggest(self, trial_id: str) -> object:
        del trial_id
        begins = self._watch.begin()
        return Searcher.FINISHED if begins is None and not self._watch.is_waiting else begins

    def on_trial_complete(self, trial_id: str, result: object = None, error: bool = False) -> None:
        """The callback learns the same."""

    def save(self, checkpoint_path: str) -> None:
        """The journal holds all there is to know."""

    def restore(self, checkpoint_path: str) -> None:
        """Likewise."""


class _Callback(tune.Callback):  # type: ignore[misc]  # likewise
    """Ray Tune tells it what happens."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        return tune.Callback, ()

    def on_step_end(self, iteration: int, trials: object, **info: object) -> None:
        del iteration, trials, info
        self._watch.show(now=False)

    def on_trial_result(
        self, iteration: int, trials: object, trial: Trial, result: Mapping[str, object], **info: object
    ) -> None:
        del iteration, trials, info
        self._watch.result(trial.config["trial"], result)

    def on_trial_complete(self, iteration: int, trials: object, trial: Trial, **info: object) -> None:
        del iteration, trials, info
        self._watch.complete(trial.config["trial"])

    def on_trial_error(self, iteration: int, trials: object, trial: Trial, **info: object) -> None:
        del iteration, trials, info
        self._watch.lost(trial.config["trial"], "The trial's process was lost; is there enough memory?")


class _AtTheEnd(tune.Stopper):  # type: ignore[misc]  # likewise
    """Ray Tune asks it whether to stop."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __reduce__(self) -> tuple[type[tune.Stopper], tuple[()]]:
        return tune.Stopper, ()

    def __call__(self, trial_id: str, result: Mapping[str, object]) -> bool:
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        return self._watch.over()
