"""Size of a sweep: its trials, the number that run at once, and the points of comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llamafarm_ray.capacity import machines
from llamafarm_ray.config import Config
from llamafarm_ray.training.plan.epochs import with_epochs_and_batch_size
from llamafarm_ray.training.plan.resources import choose_workers, count_devices
from llamafarm_ray.tuning.journal import Record
from llamafarm_ray.tuning.packing import Node, TrialNeeds, num_concurrent
from llamafarm_ray.tuning.space import Space

__all__ = ["Points", "finished_seconds", "num_concurrent_trials", "num_trials", "with_sizes"]

_DEFAULT_TRIALS: Final = 20
_DEFAULT_POPULATION: Final = 8


@dataclass(frozen=True, slots=True)
class Points:
    """Points of comparison of trials: each after the same number of training rows, for any batch size.

    Args:
        rows: between two comparisons.
        count: of the longest trial.
    """

    rows: float
    count: int

    @classmethod
    def of(cls, config: Config, space: Space, *, num_rows: int) -> Points:
        """The points of ``tuning.early_stopping``, for a configuration whose epochs and batch size are decided."""
        training = config.fine_tuning.training
        epochs = max(_ends(space, "fine_tuning.training.epochs", float(training.epochs)))
        longest = epochs * num_rows
        max_steps = _ends(space, "fine_tuning.training.max_steps", training.max_steps)
        if None not in max_steps:
            longest = max(max_steps) * max(_window_rows(config, space))
        rows = longest * config.tuning.early_stopping.first_after
        return cls(rows, max(1, math.floor(longest / rows + 1e-9)))

    def every_steps(self, config: Config) -> int:
        """Optimizer steps of a trial between two comparisons."""
        training = config.fine_tuning.training
        workers = config.fine_tuning.distributed.num_workers or 1
        window = int(training.batch_size) * training.gradient_accumulation_steps * workers
        return training.evaluate_every_steps or max(1, round(self.rows / window))


def with_sizes(config: Config, *, num_rows: int, passes: int) -> Config:
    """Return a configuration with epochs and a batch size for the rows of the training split.

    Args:
        config: of a trial, or of the sweep.
        passes: passes over the questions that the rows are written in.
    """
    tuning = config.fine_tuning
    training = with_epochs_and_batch_size(tuning.training, objective=tuning.objective, num_rows=num_rows, passes=passes)
    return config.model_copy(update={"fine_tuning": tuning.model_copy(update={"training": training})})


def _ends(space: Space, key: str, set_to: object) -> Sequence[Any]:
    """Return the values of a key where it is searched (a range's ends), else what it is set to; `auto` is that too."""
    domain = space.domains.get(key)
    if domain is None:
        return (set_to,)
    values = domain.values if domain.is_list else domain.values[:2]
    return [set_to if value == "auto" else value for value in values]


def _window_rows(config: Config, space: Space) -> list[int]:
    """Rows of an optimizer step, of the smallest and the largest one."""
    training = config.fine_tuning.training
    batch = _ends(space, "fine_tuning.training.batch_size", training.batch_size)
    accumulation = _ends(
        space, "fine_tuning.training.gradient_accumulation_steps", training.gradient_accumulation_steps
    )
    workers = max(_num_workers(config, space))
    return [pick(batch) * pick(accumulation) * workers for pick in (min, max)]


def _num_workers(config: Config, space: Space) -> list[int]:
    given = _ends(space, "fine_tuning.distributed.workers", config.fine_tuning.distributed.num_workers)
    return [max(one) if isinstance(one, tuple) else one or 1 for one in given]


def num_trials(config: Config) -> int | None:
    """Trials to begin; as configured; else as many as a budget or a grid has room for, else 20.

    Of a population it is how many train at a time, others taking the place of those that do worst: 8 by default.
    """
    tuning = config.tuning
    if tuning.num_trials is None and tuning.scheduler == "pbt":
        return _DEFAULT_POPULATION
    if tuning.num_trials is not None or tuning.budget is not None or tuning.search == "grid":
        return tuning.num_trials
    return _DEFAULT_TRIALS


def finished_seconds(records: Mapping[int, Record]) -> list[float]:
    """Return the seconds of each trial that ran to its end."""
    return [record.seconds for record in records.values() if record.value is not None]


def num_concurrent_trials(config: Config, space: Space, cores: int | None) -> int:
    """Return the number of trials that run at once."""
    hardware = count_devices()
    most = max(_num_workers(config, space))
    distributed = config.fine_tuning.distributed
    if "fine_tuning.distributed.workers" in space.domains:
        distributed = distributed.model_copy(update={"workers": most})
    workers = choose_workers(distributed, hardware)
    needs = TrialNeeds(workers.num_workers, workers.num_cpus, 1.0 if workers.use_gpu else 0.0)
    nodes = [Node(one.resources.get("CPU", 0.0), one.resources.get("GPU", 0.0)) for one in machines()]
    wanted = config.tuning.max_concurrent
    if wanted is None and cores is not None and not workers.use_gpu:
        wanted = max(1, cores // workers.num_workers)
    return num_concurrent(nodes, needs, most=wanted)
