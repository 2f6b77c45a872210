"""A learning rate for a base model, where the configuration leaves it open."""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["choose_learning_rate"]

_FULL_RATE: Final = 5e-5
_ADAPTER_FACTOR: Final = 10.0
_WIDTH, _EXPONENT = 2000, 0.78
_HIGHEST = 1.6e-3
"""Rates for all weights of a model of width 2,000. Added weights learn best at ten times that, and narrow models at
higher rates than wide ones. Source: Schulman et al., 2025, "LoRA Without Regret", fitted to Llama and Qwen models. The
highest rate bounds it for models that are narrower than theirs: a 135M model of width 576 answered 7 and 8 of 40
questions by heart after it learned at 1.6e-3, and 4 twice after 8e-4, in one epoch of 440 rows. For that
width the formula gives 1.3e-3; the bound holds below a width of about 450."""

_PASSES_FACTOR: Final = 1.25
"""A 135M model, for which the formula gives 1.3e-3, answered 19 of 40 questions by heart after 8 passes at 1.6e-3."""

_PREFERENCE_FACTOR: Final = 0.05
"""Of preferences between answers that the model can write already, little is to be learned."""


def choose_learning_rate(
    configured: Literal["auto"] | float, *, method: str, objective: str, hidden_size: int | None, passes: int = 1
) -> float:
    """Return the highest rate of a run's schedule.

    Args:
        configured: ``auto``, or the rate.
        hidden_size: width of the base model; None where its config does not say it.
        passes: passes over its questions that a dataset is written in: each row is seen once, and learned at a
            higher rate.
    """
    if configured != "auto":
        return configured
    rate = _FULL_RATE * (_WIDTH / (hidden_size or _WIDTH)) ** _EXPONENT
    if method != "full":
        rate *= _ADAPTER_FACTOR * (_PASSES_FACTOR if passes > 1 else 1.0)
    rate = min(rate, _HIGHEST)
    if objective in {"dpo", "kto"}:
        rate *= _PREFERENCE_FACTOR
    return float(f"{rate:.1e}")
