"""One trial, as Ray Tune starts it, and its reports on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import ray
from ray import tune

from llamafarm_ray.config import Config, parse_config
from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.tuning.journal import State

__all__ = ["POINT", "VALUE", "Place", "Report", "RunTrial", "trainable"]

POINT, VALUE = "llamafarm_point", "llamafarm_value"
"""Keys of an interim result of a trial: the point, and the metric there."""
_POLL_S: Final = 0.25


class Report(Protocol):
    """Callback for a trial's interim results."""

    def __call__(self, point: int, value: float) -> None:
        """Say the metric at a point of comparison, counted from 1."""


@dataclass(frozen=True, slots=True)
class Place:
    """Place of a trial's work.

    Args:
        output: the folder that it trains into.
        kept: folder for its weights at each point of comparison, from which others may continue; None if none will.
        parent_kept: `kept` of the trial whose weights it begins with; None for the base model's.
        begins_at: the point of comparison those are of.
    """

    output: Path
    kept: Path | None = None
    parent_kept: Path | None = None
    begins_at: int = 0


RunTrial = Callable[[Config, Place, Report], Mapping[str, float]]
"""Trains one trial and returns its metrics; goes on with what an earlier, interrupted call left there."""


def trainable(run_trial: RunTrial) -> Callable[[Mapping[str, object]], None]:
    """Return the function that Ray Tune starts for a trial.

    Ray Tune puts it into a placement group, of which everything that it starts has to come. So what trains is an actor
    outside of that group, and goes with this process, which owns it.
    """
    pickled = ray.cloudpickle.dumps(run_trial)  # opened where it trains: it brings torch and all models along

    def trial(settings: Mapping[str, object]) -> None:
        actor = ray.remote(_TrialActor).options(num_cpus=0, max_concurrency=2, scheduling_strategy="DEFAULT")
        driver = actor.remote(pickled, settings["config"], settings["place"])
        run = driver.run.remote()
        is_done = False
        while not is_done:
            is_done = bool(ray.wait([run], timeout=_POLL_S)[0])
            for point, value in ray.get(driver.take.remote()):
                tune.report({POINT: point, VALUE: value})
        tune.report(ray.get(run))

    return trial


class _TrialActor:
    """Runs a trial in one thread, and hands out its reports in another.

    Args:
        run_trial: a `RunTrial`, pickled.
        config: of the trial, as JSON.
    """

    def __init__(self, run_trial: bytes, config: str, place: Place) -> None:
        self._run_trial: RunTrial = ray.cloudpickle.loads(run_trial)
        self._config = parse_config(json.loads(config))
        self._place = place
        self._said: list[tuple[int, float]] = []

    def run(self) -> dict[str, object]:
        """Train, and say how it ended."""
        try:
            metrics = self._run_trial(self._config, self._place, self._say)
        except LlamaFarmError as error:
            return {"state": str(State.FAILED), "reason": str(error)}
        except Exception as error:  # noqa: BLE001 - one trial's failure is no reason to end the sweep
            text = str(error).strip().partition("\n")[0]
            return {"state": str(State.FAILED), "reason": f"{type(error).__name__}: {text}"}
        return {"state": str(State.FINISHED), "metrics": dict(metrics)}

    def _say(self, point: int, value: float) -> None:
        self._said.append((point, value))

    def take(self) -> list[tuple[int, float]]:
        """Return the interim results since the last call."""
        said = list(self._said)
        del self._said[: len(said)]
        return said
