"""Commands about stored content: the deletion of unused bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llamafarm_ray.registry.commands.base import (
    ContentMovedError,
    Context,
    OfVersion,
    Unbounded,
    check_stored,
    event_of,
)
from llamafarm_ray.registry.events import ContentCondemned, Event, VersionPurged
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.types import Digest

__all__ = ["Condemn", "Purge", "references"]


@dataclass(frozen=True)
class Purge(OfVersion):
    """Give up a retired version's content."""

    action = Action.COLLECT_GARBAGE

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        return [event_of(VersionPurged, **self._names(state))]


@dataclass(frozen=True)
class Condemn(Unbounded):
    """Have stored bytes deleted.

    Attributes:
        generations: blobs to delete, by digest.
        examined: every manifest and signature whose references the collector looked at.
    """

    action = Action.COLLECT_GARBAGE
    generations: Mapping[Digest, int]
    examined: frozenset[str]

    @property
    def target(self) -> str:
        """Number of blobs, in words."""
        return f"{len(self.generations)} blobs"

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        del context
        if not references(state) <= self.examined:
            raise ContentMovedError
        check_stored(state, self.generations)
        return [event_of(ContentCondemned, generations=dict(self.generations))] if self.generations else []


def references(state: RegistryState) -> set[str]:
    """Return the digests that a state refers to: manifests of versions and datasets, signatures, deployed bases."""
    found = {deployment.base_digest for deployment in state.deployments.values()}
    for record in state.versions():
        if not record.purged:
            found.add(record.registered.manifest)
            found.update(signed.signature for signed in record.signatures.values())
    return found | {str(manifest) for manifest in state.stored_datasets()}
