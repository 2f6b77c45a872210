"""Quality of a quantized model in one number, and budgets that it has to keep."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Self

from llamafarm_ray.config.values import Comparison
from llamafarm_ray.errors import InputError, did_you_mean
from llamafarm_ray.models.convert.measure import Difference

__all__ = ["Budget", "measures", "quality"]


def quality(difference: Difference) -> float:
    """Return ``exp(-KL)`` of the mean Kullback-Leibler divergence of next-token predictions from the source's.

    1 means the same predictions. At 0.99 the source's own tokens are, in the geometric mean, 1 % less probable.

    Args:
        difference: the measured one; a NaN in it gives 0.
    """
    found = math.exp(-difference.mean_kl)
    return found if math.isfinite(found) else 0.0


def measures(difference: Difference) -> dict[str, float]:
    """Return the numbers that a budget can name."""
    return {
        "quality": quality(difference),
        "agreement": difference.greedy_agreement,
        "perplexity_ratio": difference.perplexity / difference.perplexity_source,
    }


_MEASURES = ("quality", "agreement", "perplexity_ratio")


@dataclass(frozen=True, slots=True)
class Budget:
    """Conditions that a quantized model has to meet.

    Attributes:
        goals: a comparison for each measure that is named.
    """

    spelling: str
    goals: tuple[tuple[str, Comparison], ...]

    @classmethod
    def parse(cls, spelling: str) -> Self:
        """Read ``quality>=0.99``, or several such conditions with commas between them.

        Raises:
            InputError: it has another form, or names another measure.
        """
        goals = []
        for part in spelling.split(","):
            match = re.fullmatch(r"\s*([a-z_]+)\s*([<>].*)", part)
            if match is None:
                raise InputError(
                    f"The budget {part.strip()!r} has another form.", hint="Say, for example, quality>=0.99."
                )
            if match[1] not in _MEASURES:
                raise InputError(f"A budget has no {match[1]!r}.", hint=did_you_mean(match[1], _MEASURES))
            try:
                goals.append((match[1], Comparison.parse(match[2])))
            except ValueError as error:
                raise InputError(
                    f"The budget {part.strip()!r} {error}.", hint="Say, for example, quality>=0.99."
                ) from None
        return cls(spelling, tuple(goals))

    def is_met(self, difference: Difference) -> bool:
        """Return True if all conditions hold; a measure that is no number meets none."""
        found = measures(difference)
        return all(goal.holds(found[name]) for name, goal in self.goals)

    def shortfall(self, difference: Difference) -> str:
        """Return the conditions that do not hold, with their measurements."""
        found = measures(difference)
        return ", ".join(
            f"{name} {found[name]:.6g} (wanted {goal})" for name, goal in self.goals if not goal.holds(found[name])
        )
