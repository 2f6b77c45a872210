"""Fastest settings by few trials: engines and precisions by successive halving, then options of the best ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.serving.optimize.forms import Settings
from llamafarm_ray.serving.optimize.halving import Trial, successive_halving
from llamafarm_ray.serving.optimize.options import Axis, Goal
from llamafarm_ray.serving.optimize.speed import Speed, SpeedEngine

__all__ = ["LENGTHS", "TUNING_TOKENS", "Tuned", "find_fastest", "tune"]

LENGTHS = (8, 32)
"""Tokens of each answer, by round of the trials of engines and precisions."""
TUNING_TOKENS = 16
"""Tokens of each answer in the trials of options."""
_FINALISTS = 2
"""Settings whose options are tried, at most: the fastest, and one that options may make faster than that."""
_NEAR = 0.8
"""The least share of the highest rate that the second one has."""
_GAIN = 1.03
"""The least ratio to the speed so far that counts as faster, and not as noise."""

Measure = Callable[[Settings, int], Speed]
"""Gives the speed of settings in a trial with answers of so many tokens."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """Settings that were found by trials.

    Attributes:
        tokens_per_s: of all answers that are written at the same time; ``None`` if no trial ended well.
    """

    settings: Settings
    tokens_per_s: float | None
    trials: tuple[Trial[Settings], ...]


def find_fastest(
    arms: Sequence[Settings], axes_of_engine: Callable[[SpeedEngine], Sequence[Axis]], measure: Measure
) -> Tuned:
    """Find the fastest of some settings with the best of their options.

    Args:
        arms: settings without options.
        axes_of_engine: options of an engine that are worth a trial.
        measure: measures; settings for which it raises are left out.
    """
    trials = successive_halving(arms, LENGTHS, lambda arm, length: measure(arm, length).tokens_per_s)
    best = trials[0]
    if best.score is None:
        return Tuned(best.arm, None, tuple(trials))
    last = [trial for trial in trials if trial.length == best.length and (trial.score or 0.0) >= _NEAR * best.score]
    tuned = [tune(trial.arm, axes_of_engine(trial.arm.engine), TUNING_TOKENS, measure) for trial in last[:_FINALISTS]]
    found = max(tuned, key=lambda one: one.tokens_per_s or 0.0)
    tried = (*trials, *(trial for one in tuned for trial in one.trials))
    if found.tokens_per_s is None or found.settings in {trial.arm for trial in last}:
        return Tuned(best.arm, best.score, tried)  # which longer trials measured
    return Tuned(found.settings, found.tokens_per_s, tried)


def tune(settings: Settings, axes: Sequence[Axis], length: int, measure: Measure) -> Tuned:
    """Try each alternative of each option once, and keep those that are faster.

    Args:
        length: tokens of each answer.
        measure: measures; an alternative for which it raises is left out.
    """
    try:
        speed = measure(settings, length)
    except LlamaFarmError as error:
        return Tuned(settings, None, (Trial(settings, length, None, error.message),))
    done = [Trial(settings, length, speed.tokens_per_s)]
    for axis in axes:
        start = settings
        for value in axis.values:
            tried = start.with_value(axis.name, value)
            try:
                found = measure(tried, length)
            except LlamaFarmError as error:
                done.append(Trial(tried, length, None, error.message))
                continue
            done.append(Trial(tried, length, found.tokens_per_s))
            if _is_faster(found, speed, axis.goal):
                settings, speed = tried, found
    return Tuned(settings, speed.tokens_per_s, tuple(done))


def _is_faster(found: Speed, before: Speed, goal: Goal) -> bool:
    if goal == "tokens_per_s":
        return found.tokens_per_s > _GAIN * before.tokens_per_s
    keeps_rate = found.tokens_per_s * _GAIN > before.tokens_per_s
    return keeps_rate and found.first_token_s * _GAIN < before.first_token_s
