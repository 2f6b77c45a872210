"""Successive halving: short trials of all, longer ones of the best.

By Jamieson and Talwalkar, 2016, https://arxiv.org/abs/1502.07943.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from llamafarm_ray.errors import LlamaFarmError

__all__ = ["Trial", "successive_halving"]

Arm = TypeVar("Arm")


@dataclass(frozen=True, slots=True)
class Trial(Generic[Arm]):
    """A measured trial.

    Attributes:
        score: more is better; ``None`` if it failed.
    """

    arm: Arm
    length: int
    score: float | None
    error: str = ""


def successive_halving(
    arms: Sequence[Arm], lengths: Sequence[int], measure: Callable[[Arm, int], float]
) -> list[Trial[Arm]]:
    """Measure all arms shortly, the better half longer, and so on; return all trials, the best of the last round first.

    Args:
        arms: settings to choose among.
        measure: the score of an arm in a trial of that length; an arm for which it raises is left out.
    """
    done: list[Trial[Arm]] = []
    left = list(arms)
    for length in lengths:
        trials = [_trial(arm, length, measure) for arm in left]
        done = [*_best_first(trials), *done]
        ranked = [trial.arm for trial in _best_first(trials) if trial.score is not None]
        left = ranked[: (len(ranked) + 1) // 2]
    return done


def _trial(arm: Arm, length: int, measure: Callable[[Arm, int], float]) -> Trial[Arm]:
    try:
        return Trial(arm, length, measure(arm, length))
    except LlamaFarmError as error:
        return Trial(arm, length, None, error.message)


def _best_first(trials: Sequence[Trial[Arm]]) -> list[Trial[Arm]]:
    return sorted(trials, key=lambda trial: -trial.score if trial.score is not None else float("inf"))
