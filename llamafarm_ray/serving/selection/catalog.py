"""Catalog of an application's models: facts from the registry, and measured latencies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from statistics import fmean
from typing import Final

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.registry.governance.policy import flat_metrics
from llamafarm_ray.registry.state import RegistryState, VersionRecord
from llamafarm_ray.registry.state.whole import DEFAULT_ALIAS
from llamafarm_ray.serving.routing.resolution import Target, resolve, served_models
from llamafarm_ray.serving.routing.traffic_split import NOBODY, Caller
from llamafarm_ray.serving.selection.latencies import Latencies
from llamafarm_ray.serving.selection.model_selection import Offer
from llamafarm_ray.types import Digest, ModelRef

__all__ = ["VECTORS", "WRITES", "ModelCatalog", "quality_of"]

WRITES: Final = ("chat", "completions")
"""The kinds of requests that a model which writes text answers."""
VECTORS: Final = ("embeddings",)
"""Those of a model that gives vectors."""
_QUALITY: Final = ("quality", "quality_score", "accuracy", "acc", "f1", "exact_match", "score", "rouge_l")
"""Endings of metrics that count as quality; the first ending that a version has results for is used."""


def quality_of(metrics: Mapping[str, object]) -> tuple[float, str] | None:
    """Return a version's quality from 0 to 1 by its evaluation, and the metric's name; ``None`` without a result.

    Of several results of a name, such as the accuracies of benchmarks, it is the mean. Baselines don't count.
    """
    flat = {name: value for name, value in flat_metrics(metrics).items() if "baseline" not in name.split(".")}
    for ending in _QUALITY:
        values = [value for name, value in flat.items() if name.rpartition(".")[2].endswith(ending) and 0 <= value <= 1]
        if values:
            return fmean(values), ending
    return None


class ModelCatalog:
    """The models of an application, described.

    Args:
        kinds: the requests that the engine answers: :data:`WRITES` or :data:`VECTORS`.
        base_url: root of their routes, for :attr:`.model_selection.Offer.base_url`.
    """

    def __init__(
        self, base_name: str, base_digest: Digest, kinds: tuple[str, ...] = WRITES, base_url: str = ""
    ) -> None:
        self._base_name = base_name
        self._base_digest = base_digest
        self._kinds = kinds
        self._base_url = base_url
        self._described: dict[str, tuple[VersionRecord, Offer]] = {}
        self._state: RegistryState | None = None
        self._latencies: Latencies | None = None
        self._base: VersionRecord | None = None
        self._plain: dict[str, Offer] = {}
        self._timed: dict[str, Offer] = {}

    def to_choose_from(self, state: RegistryState, latencies: Latencies, caller: Caller) -> list[Offer]:
        """One for the base, and one for each model that has a version of it: what its name means to a caller."""
        self._look(state, latencies)
        split = [one.model for one in state.rollouts_under_way() if one.alias == DEFAULT_ALIAS]
        mine = self._offers((name for name in split if name in self._plain), state, latencies, caller)
        return list({**self._timed, **{offer.model: offer for offer in mine}}.values())

    def of(self, names: Iterable[str], state: RegistryState, latencies: Latencies) -> dict[str, Offer]:
        """Return the entries of names that a request may use; names that resolve to nothing are left out."""
        self._look(state, latencies)
        return {offer.model: offer for offer in self._offers(names, state, latencies, NOBODY)}

    def _look(self, state: RegistryState, latencies: Latencies) -> None:
        """Keep the entries for all requests until a commit, or until latencies are measured again."""
        if state is not self._state:  # states never change: another object is another commit
            living = (record for record in state.with_content(self._base_digest) if record.retired is None)
            base = next(living, None)
            if base is not self._base:
                self._base = base
                self._described.clear()
            names = served_models(state, base_name=self._base_name, base_digest=self._base_digest)
            bare = dict.fromkeys(filter(_is_bare, names))
            self._plain = {offer.model: offer for offer in self._offers(bare, state, Latencies(), NOBODY)}
            self._state = state
            self._latencies = None
        if latencies is not self._latencies:
            self._timed = {
                name: replace(offer, latency_ms=latencies.get(offer.version)) for name, offer in self._plain.items()
            }
            self._latencies = latencies

    def _offers(
        self, names: Iterable[str], state: RegistryState, latencies: Latencies, caller: Caller
    ) -> Iterator[Offer]:
        for name in names:
            try:
                target = resolve(name, state, base_name=self._base_name, base_digest=self._base_digest, caller=caller)
            except LlamaFarmError:
                continue
            offer = self._offer(target, state)
            yield replace(
                offer,
                model=name,
                withheld=offer.withheld or self._withheld(name, state),
                latency_ms=latencies.get(target.ref),
            )

    def _offer(self, target: Target, state: RegistryState) -> Offer:
        """Return the registry's facts about a version."""
        record = self._base if target.digest is None else state.resolve(ModelRef.parse(target.ref))
        if record is None:
            return Offer(target.ref, target.ref, self._kinds, self._kinds, base_url=self._base_url)
        known = self._described.get(target.ref)
        if known is None or known[0] is not record:  # records never change either
            known = self._described[target.ref] = (record, self._describe(target.ref, record))
        return known[1]

    def _describe(self, ref: str, record: VersionRecord) -> Offer:
        quality, metric = quality_of(record.metrics) or (None, "")
        return Offer(
            model=ref,
            version=ref,
            kinds=self._kinds,
            tasks=record.registered.capabilities or self._kinds,
            withheld=f"it is deprecated: {record.deprecated}".rstrip(": ") if record.deprecated is not None else "",
            quality=quality,
            quality_metric=metric,
            memory_bytes=self._memory_bytes(record),
            base_url=self._base_url,
        )

    def _memory_bytes(self, record: VersionRecord) -> float | None:
        said = record.registered.resources.get("memory_bytes")
        if isinstance(said, int | float) and not isinstance(said, bool):
            return float(said)
        if self._base is None:
            return None
        base_bytes = self._base.registered.size_bytes
        return float(base_bytes if record is self._base else base_bytes + record.registered.size_bytes)

    def _withheld(self, name: str, state: RegistryState) -> str:
        if name == self._base_name or not _is_bare(name) or DEFAULT_ALIAS in state.models[name].aliases:
            return ""
        return f"none of its versions is {DEFAULT_ALIAS}"


def _is_bare(name: str) -> bool:
    """Return True for a model's name without a version or an alias."""
    return ":" not in name and "@" not in name
