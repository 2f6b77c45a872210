"""Pull a version's files to this machine, and push a plain folder to the registry."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.registry import RegistryApi, VersionRecord
from llamafarm_ray.storage.copying import check_free
from llamafarm_ray.types import Digest, ModelKind
from llamafarm_ray.workflows.versions.prove import prove_pulled

__all__ = ["Pulled", "pull"]


@dataclass(frozen=True, slots=True)
class Pulled:
    """A version, and the folder on this machine that holds its files."""

    record: VersionRecord
    folder: Path


def pull(registry: RegistryApi, reference: str, output: Path | None = None, *, at: dt.datetime | None = None) -> Pulled:
    """Return the verified files of a version, in this node's cache or as a plain folder.

    An adapter that was not proved against its base at registration is proved now, where that base is here.

    Args:
        reference: ``name``, ``name:1.2.0`` or ``name@production``.
        output: the folder to write, not there yet or empty; by default the cache's own, which is not to be changed.
        at: as of when the reference is read; now by default.

    Raises:
        InputError: the folder is there and not empty, or the adapter does not fit its base model.
        ConflictError: the version is retired.
        PolicyError: the policy of an alias that points at it asks for a signature, and none is good.
        IntegrityError: its files are damaged.
    """
    if output is not None:
        check_free(output)
    record = registry.resolve(reference, at=at)
    folder = registry.pull(record.ref)
    if record.registered.kind is ModelKind.ADAPTER:
        prove_pulled(registry, record, folder)
    if output is None:
        return Pulled(record, folder)
    registry.content.export(Digest(record.registered.manifest), output)
    return Pulled(record, output)
