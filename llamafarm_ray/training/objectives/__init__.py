"""The training objectives, one file each."""

from __future__ import annotations

from llamafarm_ray.errors import UnsupportedError, did_you_mean
from llamafarm_ray.training.objectives.base import Loss, Objective
from llamafarm_ray.training.objectives.contrastive import ContrastiveObjective
from llamafarm_ray.training.objectives.dpo import DpoObjective
from llamafarm_ray.training.objectives.kto import KtoObjective
from llamafarm_ray.training.objectives.pretraining import PretrainingObjective
from llamafarm_ray.training.objectives.sft import SftObjective

__all__ = [
    "OBJECTIVES",
    "ContrastiveObjective",
    "DpoObjective",
    "KtoObjective",
    "Loss",
    "Objective",
    "PretrainingObjective",
    "SftObjective",
    "find_objective",
]

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (SftObjective, PretrainingObjective, DpoObjective, KtoObjective, ContrastiveObjective)
}
"""Every objective by its name in ``fine_tuning.objective``."""


def find_objective(name: str, settings: object = None, *, max_length: int | None = None) -> Objective:
    """The objective of that name.

    Args:
        name: as in ``fine_tuning.objective``.
        settings: its own section, `FineTuning.objective_settings`; None: its defaults.
        max_length: the run's longest sequence, in tokens; None: no bound.

    Raises:
        UnsupportedError: there is no engine for it.
    """
    if name not in OBJECTIVES:
        raise UnsupportedError(
            f"fine_tuning.objective {name!r} can't be trained by this release.", hint=did_you_mean(name, OBJECTIVES)
        )
    objective = OBJECTIVES[name](settings)
    objective.max_length = max_length
    return objective
