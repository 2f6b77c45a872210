"""The training objectives, one file each."""

from __future__ import annotations

from llamafarm_ray.errors import UnsupportedError, did_you_mean
from llamafarm_ray.training.objectives.sft import SftObjective, TokenisedRow

__all__ = ["OBJECTIVES", "SftObjective", "TokenisedRow", "find_objective"]

OBJECTIVES: dict[str, type[SftObjective]] = {SftObjective.name: SftObjective}
"""Every objective by its name in ``fine_tuning.objective``."""


def find_objective(name: str) -> type[SftObjective]:
    """The objective of that name.

    Raises:
        UnsupportedError: there is no engine for it.
    """
    if name not in OBJECTIVES:
        raise UnsupportedError(
            f"fine_tuning.objective {name!r} can't be trained by this release.", hint=did_you_mean(name, OBJECTIVES)
        )
    return OBJECTIVES[name]
