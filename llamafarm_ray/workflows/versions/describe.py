"""Describe a version by all of its recorded facts."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from llamafarm_ray.registry import RegistryApi, VersionRecord
from llamafarm_ray.storage import FileEntry
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.inspection.model_facts import FactsReader, ModelFacts

__all__ = ["Description", "as_dict", "describe", "files_of"]


@dataclass(frozen=True, slots=True)
class Description:
    """A version.

    Attributes:
        deployments: the roots of the endpoints that serve it.
        files: its files; ``None`` where its content is no longer kept.
        approvals: principals whose approval counts, by alias.
        model: facts read from its files; ``None`` where they are no longer kept, or hold no weights.
    """

    record: VersionRecord
    aliases: tuple[str, ...]
    deployments: tuple[str, ...]
    files: tuple[FileEntry, ...] | None
    approvals: dict[str, list[str]]
    model: ModelFacts | None

    def to_dict(self) -> dict[str, object]:
        """The same for programs."""
        files = None
        if self.files is not None:
            files = [{"path": file.path, "size_bytes": file.size_bytes, "digest": file.digest} for file in self.files]
        known = as_dict(self.record, self.aliases)
        more = {"approvals": self.approvals, "deployments": self.deployments, "files": files}
        return {**known, **more, "facts": self.model.to_dict() if self.model is not None else None}


def describe(registry: RegistryApi, reference: str, *, at: dt.datetime | None = None) -> Description:
    """Return the description of the version that a reference names.

    Args:
        registry: the registry to read.
        reference: ``name``, ``name:1.2.0`` or ``name@production``.
        at: as of when; now by default.

    Raises:
        NotFoundError: there was no such version.
        IntegrityError: its manifest is damaged.
    """
    record = registry.resolve(reference, at=at)
    state = registry.state if at is None else registry.state_at(at)
    manifest, number = record.registered.manifest, record.registered.version
    deployments = tuple(
        sorted(
            deployment.url
            for deployment in state.deployments.values()
            if record.ref in deployment.adapters or deployment.base_digest == manifest
        )
    )
    aliases = tuple(state.models[record.registered.model].pointing_at(number))
    now = at or dt.datetime.now(dt.UTC)
    counting = {alias: state.approvers(record, alias, now) for alias in sorted(record.approvals)}
    approvals = {alias: names for alias, names in counting.items() if names}
    files = files_of(registry, record)
    model = FactsReader(registry).of(record) if files is not None else None
    return Description(record, aliases, deployments, files, approvals, model)


def files_of(registry: RegistryApi, record: VersionRecord) -> tuple[FileEntry, ...] | None:
    """The files of a version; ``None`` where its content is no longer kept."""
    if registry.state.version(record.registered.model, record.registered.version).purged:
        return None
    return registry.content.manifest(Digest(record.registered.manifest)).files


def as_dict(record: VersionRecord, aliases: tuple[str, ...]) -> dict[str, object]:
    """Return a version for programs: its fields as registered, and their present values.

    ``approvals`` names everybody who gave one; :func:`describe` those whose approval counts.
    """
    return {
        **record.registered.model_dump(mode="json"),
        "ref": record.ref,
        "status": record.status,
        "aliases": aliases,
        "tags": record.tags,
        "metrics": dict(record.metrics),
        "deprecated": record.deprecated,
        "retired": record.retired,
        "approvals": {
            alias: sorted({approval.principal for approval in given})
            for alias, given in sorted(record.approvals.items())
        },
        "signatures": [
            {"key": signed.key, "signature": signed.signature, "public_key": signed.public_key}
            for _, signed in sorted(record.signatures.items())
        ],
        "time": record.time.isoformat(),
        "principal": record.principal,
    }
