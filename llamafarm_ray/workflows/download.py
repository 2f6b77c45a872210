"""Download a model from anywhere; copy it into a folder or register it where that is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.registry import RegistryApi, VersionRecord, check_name
from llamafarm_ray.storage.copying import check_free, copy_folder
from llamafarm_ray.storage.downloads.downloads import Report
from llamafarm_ray.storage.downloads.record import DownloadRecord
from llamafarm_ray.workflows.register import Registration, register

__all__ = ["RECORD_NAME", "Downloaded", "download"]

RECORD_NAME = "download.json"


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A downloaded model.

    Attributes:
        record: record of its origin, with digests and licence.
        folder: the folder with its files, the cache's own or the one that was asked for.
        was_here: True if nothing had to be fetched.
        version: the version that it was registered as.
    """

    record: DownloadRecord
    folder: Path
    was_here: bool
    version: VersionRecord | None = None


def download(
    registry: RegistryApi,
    source: str,
    *,
    revision: str = "",
    include: Sequence[str] = (),
    offline: bool | None = None,
    output: Path | None = None,
    name: str | None = None,
    report: Report | None = None,
) -> Downloaded:
    """Return a model's files on this machine.

    Args:
        registry: registry whose cache gets the files, and which registers a name.
        source: the source, see :func:`~llamafarm_ray.storage.downloads.sources.parse_source`.
        revision: a branch, tag, commit or digest.
        include: patterns of weights to take instead of the safetensors.
        offline: use only what is on this machine; by default the environment says it.
        output: a folder to copy them to, not there yet or empty; the record becomes ``download.json`` in it.
        name: the model's name, if it is to be registered.
        report: told of progress.

    Raises:
        InputError: the source, its files, the folder or the name are unusable.
        LlamaFarmError: see :meth:`~llamafarm_ray.storage.downloads.downloads.Downloads.get`.
    """
    if output is not None:
        check_free(output)
    if name is not None:
        check_name(name)
    found = registry.content.download(source, revision=revision, include=include, offline=offline, report=report)
    record = found.record
    version = None
    if name is not None:
        description = f"Downloaded from {record.source}{f' at {record.resolved}' if record.resolved else ''}."
        asked = Registration(found.folder, name=name, license=record.licence or None, description=description)
        version = register(registry, asked)
    folder = found.folder
    if output is not None:
        folder = output
        copy_folder(found.folder, output, {RECORD_NAME: json.dumps(record.to_json(), indent=2).encode() + b"\n"})
    return Downloaded(record, folder, found.was_here, version)
