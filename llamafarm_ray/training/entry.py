"""The function that Ray Train carries around. Its controller unpickles it too, and needs no torch for that."""

from __future__ import annotations

from typing import Any

from llamafarm_ray.telemetry.logs import about, set_up_logs
from llamafarm_ray.training.result import WorkerOutcome

__all__ = ["train_worker"]


def train_worker(settings: dict[str, Any]) -> WorkerOutcome | None:
    """Run `llamafarm_ray.training.worker.run_worker` on a worker, and nowhere else import it."""
    from llamafarm_ray.training.worker import run_worker

    set_up_logs()
    observers = settings["job"].observers
    with about(run=observers.run_id, model=observers.name):
        return run_worker(settings)
