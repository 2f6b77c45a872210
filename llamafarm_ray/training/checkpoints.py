"""Checkpoints of a run: each worker writes its part, Ray Train keeps the parts of one step together."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import ray.train
import torch

from llamafarm_ray.training.strategies import Strategy

__all__ = ["Checkpoints", "RunState"]


@dataclass(slots=True)
class RunState:
    """Where a run is. Everything else follows from the configuration, or is the strategy's.

    Args:
        step: optimizer steps done.
        num_tokens: tokens read by all workers.
        num_trained_tokens: of these, tokens that were trained.
        seconds: time spent.
        losses: of each step done.
    """

    step: int = 0
    num_tokens: int = 0
    num_trained_tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


class Checkpoints:
    """Writes checkpoints, and restores the latest one when Ray Train starts the workers again.

    Args:
        every_steps: optimizer steps between two checkpoints.
    """

    def __init__(self, every_steps: int) -> None:
        self._every_steps = every_steps

    def restore(self, strategy: Strategy) -> RunState:
        """The state to go on from; the beginning, where there is no checkpoint. All workers call it."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return RunState()
        with checkpoint.as_directory() as path:
            folder = Path(path)
            strategy.load(folder)
            random = torch.load(folder / _random_file(strategy), weights_only=True)
            torch.set_rng_state(random["cpu"])
            if "cuda" in random:
                torch.cuda.set_rng_state(random["cuda"])
            return RunState(**json.loads((folder / "state.json").read_text(encoding="utf-8")))

    def after_step(self, strategy: Strategy, state: RunState, *, num_steps: int) -> None:
        """Write a checkpoint if it is time; not after the last step, when the output follows."""
        if state.step % self._every_steps or state.step == num_steps:
            return
        with tempfile.TemporaryDirectory(prefix="llamafarm-checkpoint-") as path:
            folder = Path(path)
            strategy.save(folder)
            random = {"cpu": torch.get_rng_state()}
            if strategy.place.device.type == "cuda":
                random["cuda"] = torch.cuda.get_rng_state()
            torch.save(random, folder / _random_file(strategy))
            if strategy.place.rank == 0:
                (folder / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
            ray.train.report({"step": state.step}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _random_file(strategy: Strategy) -> str:
    return f"random-{strategy.place.rank}.pt"
