"""Explanation of a sweep in plain words: the best trial, its lead, and the effects of its settings."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from llamafarm_ray.config import Domain
from llamafarm_ray.tuning.journal import Record, State

__all__ = ["explain", "plain"]

_MANY: Final = 5
"""From so many trials on, a range of good values says something."""


def explain(
    records: Sequence[Record], ranked: Sequence[Record], domains: Mapping[str, Domain], *, metric: str
) -> list[str]:
    """Sentences for people.

    Args:
        ranked: the finished ones, the best first.
    """
    if not ranked:
        return ["No trial finished, so there is no best one."]
    return list(_sentences(records, ranked, domains, metric.replace("_", " ")))


def _sentences(
    records: Sequence[Record], ranked: Sequence[Record], domains: Mapping[str, Domain], metric: str
) -> Iterator[str]:
    best, counts = ranked[0], {state: sum(one.state is state for one in records) for state in State}
    parts = [f"{counts[State.FINISHED]} trained to the end"]
    names = ((State.STOPPED, "stopped early"), (State.FAILED, "failed"), (State.INVALID, "no valid configuration"))
    parts += [f"{counts[state]} {name}" for state, name in names if counts[state]]
    yield f"{len(records)} trial{'s' if len(records) > 1 else ''}: {', '.join(parts)}."
    yield f"Trial {best.number} is the best: {metric} {plain(best.value)}{_ahead(best, ranked)}."
    usual = next((one for one in ranked if one.why and one is not best), None)
    if usual is not None and usual.value and best.value is not None:
        yield (
            f"With {usual.why} (trial {usual.number}) it was {plain(usual.value)}: "
            f"a difference of {abs(best.value - usual.value) / abs(usual.value):.1%}."
        )
    for key, domain in domains.items():
        if key in best.values:
            text = _listed(key, domain, best, ranked) if domain.is_list else _ranged(key, domain, best, ranked)
            if text:
                yield text
    if best.why:
        more = "; nothing that the search proposed was better" if any(not one.why for one in records) else ""
        yield f"The best trial is one of those tried first: {best.why}{more}."


def _ahead(best: Record, ranked: Sequence[Record]) -> str:
    second = ranked[1] if len(ranked) > 1 else None
    if second is None or second.value is None or best.value is None:
        return "; no other one finished"
    return f", before trial {second.number} with {plain(second.value)}"


def _listed(key: str, domain: Domain, best: Record, ranked: Sequence[Record]) -> str:
    """The best that each value reached."""
    by_value = {plain(value): [one for one in ranked if one.values.get(key) == value] for value in domain.values}
    own = plain(best.values[key])
    others = [f"{name} {plain(found[0].value)}" for name, found in by_value.items() if found and name != own]
    if not others:
        return ""
    return f"{_short(key)} {own}: it reached {plain(best.value)}; at their best, {', '.join(others)}."


def _ranged(key: str, domain: Domain, best: Record, ranked: Sequence[Record]) -> str:
    values = [one.values[key] for one in ranked if key in one.values]
    text = f"{_short(key)} {plain(best.values[key])}, of {plain(domain.values[0])} to {plain(domain.values[1])}"
    if len(values) < _MANY:
        return f"{text}."
    good = values[: max(2, len(values) // 3)]
    where = f"the best third of the trials lies between {plain(min(good))} and {plain(max(good))}"
    return f"{text}; {where}, their median is {plain(statistics.median(good))}."


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def plain(value: object) -> str:
    """A value for people."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    return "+".join(str(one) for one in value) if isinstance(value, tuple | list) else str(value)
