"""The function that Ray Train carries around. Its controller unpickles it too, and needs no torch for that."""

from __future__ import annotations

from typing import Any

__all__ = ["train_worker"]


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Run `llamafarm_ray.training.worker.run_worker` on a worker, and nowhere else import it."""
    from llamafarm_ray.training.worker import run_worker  # noqa: PLC0415

    return run_worker(settings)
