"""Each step's numbers as TensorBoard events."""

from __future__ import annotations

import json
from collections.abc import Sequence

from torch.utils.tensorboard import SummaryWriter

from llamafarm_ray.training.monitoring.tracking.base import Ending, Record, RunInfo

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """Writes events to ``tensorboard/`` in the run's folder.

    Records of an earlier attempt beyond the step that this one goes on from are void: TensorBoard hides them.
    """

    def __init__(self, info: RunInfo) -> None:
        purge_step = info.steps_done + 1 if info.steps_done else None
        self._writer = SummaryWriter(str(info.folder / "tensorboard"), purge_step=purge_step)
        if not info.steps_done:
            for name, value in (("config", info.config), ("facts", info.facts)):
                text = json.dumps(value, indent=2, default=str)
                self._writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()), 0)

    def log(self, records: Sequence[Record]) -> None:
        """Write scalars."""
        for record in records:
            for name, value in record.values.items():
                self._writer.add_scalar(name, value, record.step)

    def close(self, ending: Ending) -> None:
        """Write what is held back."""
        del ending  # event files have no place for it
        self._writer.close()
