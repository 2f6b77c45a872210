"""Garbage collection: delete content that no version, dataset, deployment or open pull refers to.

Three steps, each of which may be cut off at any point: mark what is referred to, commit that the rest is condemned,
then delete it. The commit fails if something new was registered since the marking. Files published after it are stored
under the next generation's name, so a collector that sleeps before it deletes removes only the files that it condemned.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

from llamafarm_ray.errors import ConflictError, IntegrityError, LlamaFarmError
from llamafarm_ray.registry.api import RegistryApi
from llamafarm_ray.registry.commands import Condemn, ContentMovedError, Purge, references
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.references import record_ref
from llamafarm_ray.registry.state import RegistryState, VersionRecord
from llamafarm_ray.storage import ContentStore, StoredBlob
from llamafarm_ray.types import Digest

__all__ = ["Collected", "collect"]

_MAX_TRIES = 10


@dataclass(frozen=True, slots=True)
class Collected:
    """Deleted content, or content that would be deleted.

    Attributes:
        purged: retired versions whose content was given up.
        kept_by_lease: manifests that a pull under way keeps.
        dry_run: True if nothing was deleted.
    """

    blobs: int
    bytes: int
    manifests: int
    purged: tuple[str, ...]
    kept_by_lease: int
    dry_run: bool


def collect(
    registry: RegistryApi,
    *,
    grace: dt.timedelta = dt.timedelta(hours=24),
    purge_retired_after: dt.timedelta | None = None,
    dry_run: bool = True,
) -> Collected:
    """Delete stored bytes that nothing refers to.

    Args:
        grace: least age of such bytes: new uploads may be about to be registered.
        purge_retired_after: also give up the content of versions that were retired longer ago than this.
        dry_run: only say what would be done.

    Raises:
        IntegrityError: a version's manifest can't be read, so what it refers to isn't known. Nothing was deleted.
        ConflictError: others kept registering; try again.
    """
    registry.allow(Action.COLLECT_GARBAGE, "*", target="gc")
    now = dt.datetime.now(dt.UTC)
    ended = _ended(registry.refresh(), now, purge_retired_after)
    if not dry_run:
        for record in ended:
            registry.submit(Purge(record_ref(record)), reason="gc")
    busy = ConflictError("Others kept registering versions meanwhile.", hint="Try again.")
    problem: LlamaFarmError = busy
    for _ in range(_MAX_TRIES):
        state = registry.refresh()
        leased = registry.content.leased()
        try:
            unused = _unused(registry.content, state, {record.ref for record in ended}, leased, before=now - grace)
        except IntegrityError as error:
            if registry.refresh().sequence == state.sequence:
                raise
            problem = error  # or another collector took meanwhile what was to be read
            continue
        result = _result(unused, ended, len(leased), dry_run=dry_run)
        if dry_run:
            return result
        try:
            _condemn(registry, state, unused)
        except ContentMovedError:
            problem = busy
            continue
        for blob in unused:
            registry.content.remove(blob)
        registry.content.drop_expired_leases()
        for leftover in registry.content.leftovers():  # of uploads that were killed
            registry.home.remove(leftover.name)
        return result
    raise problem


def _ended(state: RegistryState, now: dt.datetime, after: dt.timedelta | None) -> list[VersionRecord]:
    if after is None:
        return []
    retired = (record for record in state.versions() if record.retired_at is not None and not record.purged)
    old = [record for record in retired if record.retired_at is not None and record.retired_at <= now - after]
    return sorted((record for record in old if not _is_deployed(state, record)), key=lambda record: record.ref)


def _is_deployed(state: RegistryState, record: VersionRecord) -> bool:
    return any(
        record.ref in deployment.adapters or record.registered.manifest == deployment.base_digest
        for deployment in state.deployments.values()
    )


def _unused(
    content: ContentStore, state: RegistryState, ended: set[str], leased: set[Digest], *, before: dt.datetime
) -> list[StoredBlob]:
    """Return stored blobs that are old enough and not referred to, and all leftovers of earlier generations."""
    stored = list(content.stored())
    used = _used(content, state, ended, leased)
    used |= _chunks(content, state, [blob for blob in stored if blob.is_chunk_list and blob.digest in used])
    found = []
    for blob in stored:
        current = state.generations.get(blob.digest, 0)
        if blob.generation > current:  # somebody knows more than this state does
            continue
        if blob.generation == current and (blob.digest in used or blob.modified > before):
            continue
        found.append(blob)
    return found


def _used(content: ContentStore, state: RegistryState, ended: set[str], leased: set[Digest]) -> set[Digest]:
    manifests = set(state.stored_datasets())
    used: set[Digest] = set()
    for record in state.versions():
        if not record.purged and record.ref not in ended:
            manifests.add(Digest(record.registered.manifest))
            used.update(Digest(signed.signature) for signed in record.signatures.values())
    for digest in manifests:
        used.add(digest)
        used.update(_files(content, digest))
    deployed = {Digest(deployment.base_digest) for deployment in state.deployments.values()}
    for digest in (leased | deployed) - manifests:
        used.add(digest)
        try:
            used.update(_files(content, digest))
        except IntegrityError:  # a pull of what isn't there (any more), or a base that never was, keeps nothing
            continue
    return used


def _chunks(content: ContentStore, state: RegistryState, lists: list[StoredBlob]) -> set[Digest]:
    """Return the chunks of blobs that are referred to. A list that can't be read keeps everything from deletion."""
    current = {blob.digest for blob in lists if blob.generation == state.generations.get(blob.digest, 0)}
    listed = [content.blobs.chunks(digest) for digest in sorted(current)]
    return {chunk.digest for found in listed if found is not None for chunk in found.chunks}


def _files(content: ContentStore, manifest: Digest) -> Iterable[Digest]:
    return (entry.digest for entry in content.manifest(manifest).files)


def _condemn(registry: RegistryApi, state: RegistryState, unused: list[StoredBlob]) -> None:
    current = {
        blob.digest: blob.generation for blob in unused if blob.generation == state.generations.get(blob.digest, 0)
    }
    registry.submit(Condemn(current, frozenset(references(state))), reason="gc")


def _result(unused: list[StoredBlob], ended: list[VersionRecord], num_leased: int, *, dry_run: bool) -> Collected:
    manifests = sum(blob.is_manifest for blob in unused)
    return Collected(
        blobs=len(unused) - manifests,
        bytes=sum(blob.size_bytes for blob in unused),
        manifests=manifests,
        purged=tuple(record.ref for record in ended),
        kept_by_lease=num_leased,
        dry_run=dry_run,
    )
