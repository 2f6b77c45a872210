"""Weights & Biases, over the network or into a folder for ``wandb sync``."""

from __future__ import annotations

from collections.abc import Sequence

from llamafarm_ray.config.sections.monitoring import WandbMode
from llamafarm_ray.training.monitoring.tracking.base import Ending, Record, RunInfo

__all__ = ["WandbTracker"]

_INIT_TIMEOUT_S = 20.0
_EXIT_CODES = {"finished": 0, "stopped": 0, "failed": 1, "interrupted": 255}


class WandbTracker:
    """Writes to a W&B run, with its files under ``wandb/`` in the run's folder.

    Every attempt continues the W&B run of the same id. Numbers carry the step as a value of their own: W&B's
    counter only goes up, and steps that are done again after a crash would be refused.

    Args:
        entity: team or user; None: the caller's own.
        mode: ``online`` or ``offline``.
    """

    def __init__(self, info: RunInfo, *, project: str, entity: str | None, mode: WandbMode) -> None:
        import wandb  # an extra, and half a second

        info.folder.mkdir(parents=True, exist_ok=True)
        self._teardown = wandb.teardown
        self._run = wandb.init(
            project=project,
            entity=entity,
            id=info.run_id,
            name=info.name,
            resume="allow",
            dir=str(info.folder),
            config={**info.config, "facts": dict(info.facts)},
            # Nothing but what is logged: no terminal output, source code, packages or machine data.
            settings=wandb.Settings(
                mode=mode,
                init_timeout=_INIT_TIMEOUT_S,
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
                x_save_requirements=False,
            ),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def log(self, records: Sequence[Record]) -> None:
        """Hand over numbers; W&B sends them by itself."""
        for record in records:
            values: dict[str, object] = {**record.values, "step": record.step}
            self._run.log(values)

    def close(self, ending: Ending) -> None:
        """Send the rest, and mark the run."""
        self._run.summary.update({**ending.facts, "outcome": ending.outcome})
        exit_code = _EXIT_CODES[ending.outcome]
        self._run.finish(exit_code=exit_code)
        # `finish` returns before W&B's own process has written the last of an offline run's file.
        self._teardown(exit_code=exit_code)
