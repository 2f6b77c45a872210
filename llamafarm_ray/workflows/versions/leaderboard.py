"""Rankings of registered versions by their evaluation results, equals with equals alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llamafarm_ray.config.goals import is_lower_better
from llamafarm_ray.errors import InputError, NotFoundError, did_you_mean
from llamafarm_ray.evaluation.metrics import METRICS
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.registry.governance.results import MEASURED_ALIKE
from llamafarm_ray.types import ModelRef
from llamafarm_ray.workflows.versions.list_models import list_versions

__all__ = ["Leaderboard", "RankedVersion", "Ranking", "make_leaderboard"]


@dataclass(frozen=True, slots=True)
class RankedVersion:
    """A version's place in a ranking.

    Args:
        rank: its place; equal scores share one.
        ref: ``name:version``.
        baseline: the score of the baseline; None without one.
        verdict: ``better``, ``worse`` or ``noise`` against that; empty if it is not known.
    """

    rank: int
    ref: str
    value: float
    baseline: float | None
    verdict: str
    num_examples: int | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Versions that were measured alike.

    Args:
        digests: the digests that all of them share.
        rows: the versions, the best first.
    """

    benchmark: str
    metric: str
    higher_is_better: bool
    digests: Mapping[str, str]
    rows: list[RankedVersion]

    def to_dict(self) -> dict[str, object]:
        """Return plain values."""
        rows = [{name: getattr(row, name) for name in RankedVersion.__dataclass_fields__} for row in self.rows]
        head = {name: getattr(self, name) for name in ("benchmark", "metric", "higher_is_better")}
        return {**head, "digests": dict(self.digests), "rows": rows}


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Rankings, and why there are several of one benchmark.

    Args:
        rankings: by benchmark, those with most versions first.
        notes: differences that keep scores apart, and scores without digests, which are in no ranking.
    """

    rankings: list[Ranking] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def make_leaderboard(registry: RegistryApi, names: Sequence[str] = (), metric: str | None = None) -> Leaderboard:
    """Rank the living versions by each benchmark.

    Only scores of equal data, settings, template, backend and code are in one ranking.

    Args:
        names: models, or single versions, to rank; none: all that may be read.
        metric: ``accuracy``, or ``closed_book.accuracy``; None: the first metric of each benchmark.

    Raises:
        NotFoundError: there is no such model, or no version has such a metric.
        InputError: the metric has no direction to rank by.
    """
    scores = _scores(registry, names)
    wanted, _, short = (metric or "").rpartition(".")
    groups: dict[tuple[str, str], dict[tuple[str, ...], list[tuple[str, BenchmarkScores]]]] = {}
    found = Leaderboard()
    for ref, benchmark, one in scores:
        name = short or next(iter(one.metrics), "")
        if (wanted and wanted != benchmark) or name not in one.metrics:
            continue
        if not one.digests or any(key not in one.digests for key in MEASURED_ALIKE):
            found.notes.append(f"{ref} is not ranked by {benchmark}: how it was measured is not recorded.")
            continue
        key = tuple(one.digests[part] for part in MEASURED_ALIKE)
        groups.setdefault((benchmark, name), {}).setdefault(key, []).append((ref, one))
    if metric and not groups:
        known = {f"{benchmark}.{name}" for _, benchmark, one in scores for name in one.metrics}
        raise NotFoundError(f"No version was ranked by {metric!r}.", hint=did_you_mean(metric, known))
    for (benchmark, name), by_digests in sorted(groups.items()):
        higher = _higher_is_better(benchmark, name)
        ordered = sorted(by_digests.items(), key=lambda one: (-len(one[1]), one[0]))
        for key, members in ordered:
            digests = dict(zip(MEASURED_ALIKE, key, strict=True))
            rows = _ranked(members, name, higher_is_better=higher)
            found.rankings.append(Ranking(benchmark, name, higher, digests, rows))
        differing = [part for at, part in enumerate(MEASURED_ALIKE) if len({key[at] for key in by_digests}) > 1]
        if differing:
            found.notes.append(
                f"{benchmark} has {len(by_digests)} rankings: versions were measured with different "
                f"{', '.join(differing)}. Evaluate them again alike to rank them together."
            )
    return found


def _scores(registry: RegistryApi, names: Sequence[str]) -> list[tuple[str, str, BenchmarkScores]]:
    versions = [listed.record for listed in list_versions(registry)]
    if names:
        asked = [ModelRef.parse(name) for name in names]
        whole = {ref.name for ref in asked if not ref.version and not ref.alias}
        for name in whole:
            registry.state.model(name)  # says which names are near, if there is none
        single = {registry.resolve(ref).ref for ref in asked if ref.version or ref.alias}
        versions = [one for one in versions if one.registered.model in whole or one.ref in single]
    found = []
    for record in versions:
        results = record.metrics.get("evaluation_results")
        if not isinstance(results, Mapping):
            continue
        try:
            result = EvaluationResult.from_dict({"evaluation_results": results})
        except InputError:  # results of another shape were registered by hand
            continue
        found += [(record.ref, benchmark, scores) for benchmark, scores in result.scores()]
    return found


def _ranked(members: list[tuple[str, BenchmarkScores]], name: str, *, higher_is_better: bool) -> list[RankedVersion]:
    ordered = sorted(members, key=lambda one: -one[1].metrics[name] if higher_is_better else one[1].metrics[name])
    rows: list[RankedVersion] = []
    for place, (ref, one) in enumerate(ordered, 1):
        value = one.metrics[name]
        rank = rows[-1].rank if rows and rows[-1].value == value else place
        compared = (one.comparison or {}).get(name) or {}
        verdict = str(compared.get("verdict", ""))
        rows.append(RankedVersion(rank, ref, value, (one.baseline or {}).get(name), verdict, one.num_examples))
    return rows


def _higher_is_better(benchmark: str, name: str) -> bool:
    """Return the direction of a benchmark's metric.

    Raises:
        InputError: it has none.
    """
    known = METRICS.get(name)
    if known is not None and known.higher_is_better is None:
        raise InputError(f"{name} describes answers, and ranks none.", hint="Choose another --metric.")
    is_lower = is_lower_better(f"{benchmark}.{name}")
    return not is_lower if known is None else bool(known.higher_is_better) and not is_lower
