"""Numbers of the benchmark, beside their goals."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    """The numbers so far; each is printed as it comes."""

    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def at_most(self, name: str, measured: float, goal: float, unit: str) -> None:
        """Note a number that must not be above its goal."""
        self._note(name, measured, f"at most {goal:g}", unit, met=measured <= goal)

    def at_least(self, name: str, measured: float, goal: float, unit: str) -> None:
        """Note a number that must not be below its goal."""
        self._note(name, measured, f"at least {goal:g}", unit, met=measured >= goal)

    def between(self, name: str, measured: float, goals: tuple[float, float], unit: str) -> None:
        """Note a number that must lie between two goals."""
        low, high = goals
        self._note(name, measured, f"{low:g} to {high:g}", unit, met=low <= measured <= high)

    def _note(self, name: str, measured: float, goal: str, unit: str, *, met: bool) -> None:
        self.numbers[name] = {"measured": round(measured, 4), "goal": f"{goal} {unit}".strip(), "met": met}
        print(f"{name:<62} {measured:>10.4g} {unit:<5} goal: {goal}   {'met' if met else 'NOT MET'}", flush=True)
