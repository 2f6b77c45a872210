"""Download a model from anywhere; copy it into a folder or register it where that is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.errors import InputError, IntegrityError
from llamafarm_ray.registry import RegistryApi, VersionRecord, check_name
from llamafarm_ray.registry.signing import key_digest, signed_files
from llamafarm_ray.storage.copying import check_free, copy_folder
from llamafarm_ray.storage.downloads.downloads import Report
from llamafarm_ray.storage.downloads.providers.wanted_files import SIGNATURE_NAME
from llamafarm_ray.storage.downloads.record import DownloadRecord
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.versions.register import Registration, register, stated

__all__ = ["RECORD_NAME", "Downloaded", "download"]

RECORD_NAME = "download.json"

_SHOWN_NAMES = 3


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A downloaded model.

    Attributes:
        record: record of its origin, with digests and licence.
        folder: the folder with its files, the cache's own or the one that was asked for.
        was_here: True if nothing had to be fetched.
        signed_by: the digest of the key whose signature all of its files have, where that was asked for.
    """

    record: DownloadRecord
    folder: Path
    was_here: bool
    version: VersionRecord | None = None
    signed_by: Digest | None = None


def download(
    registry: RegistryApi,
    source: str,
    *,
    revision: str = "",
    include: Sequence[str] = (),
    offline: bool | None = None,
    output: Path | None = None,
    name: str | None = None,
    public_key: Path | None = None,
    report: Report | None = None,
) -> Downloaded:
    """Return a model's files on this machine.

    Args:
        registry: registry whose cache gets the files, and which registers a name.
        source: the source, see :func:`~llamafarm_ray.storage.downloads.providers.sources.parse_source`.
        revision: a branch, tag, commit or digest.
        include: patterns of weights to take instead of the safetensors.
        offline: use only what is on this machine; by default the environment says it.
        output: a folder to copy them to, not there yet or empty; the record becomes ``download.json`` in it.
        name: the model's name, if it is to be registered.
        public_key: PEM file of the key that must have signed the files.
        report: told of progress.

    Raises:
        InputError: the source, its files, the folder, the name or the key are unusable.
        IntegrityError: the files are not those that were signed with ``public_key``.
        LlamaFarmError: see :meth:`~llamafarm_ray.storage.downloads.downloads.Downloads.get`.
    """
    if output is not None:
        check_free(output)
    if name is not None:
        check_name(name)
    key = _read_key(public_key) if public_key is not None else None
    found = registry.content.download(source, revision=revision, include=include, offline=offline, report=report)
    record = found.record
    signed_by = check_signature(found.folder, record, key) if key is not None else None
    signed = f" Signed with {signed_by}." if signed_by else ""
    version = None
    if name is not None:
        description = f"Downloaded from {record.source}{f' at {record.resolved}' if record.resolved else ''}.{signed}"
        asked = Registration(
            found.folder, name=name, facts=stated(license=record.licence or None, description=description)
        )
        version = register(registry, asked)
    folder = found.folder
    if output is not None:
        folder = output
        said = record.to_json() | ({"signed_by": signed_by} if signed_by else {})
        copy_folder(found.folder, output, {RECORD_NAME: json.dumps(said, indent=2).encode() + b"\n"})
    return Downloaded(record, folder, found.was_here, version, signed_by)


def _read_key(path: Path) -> str:
    try:
        key = path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise InputError(f"The public key {str(path)!r} can't be read: {error}.", hint="Give a PEM file.") from None
    key_digest(key)
    return key


def check_signature(folder: Path, record: DownloadRecord, public_key: str) -> Digest:
    """Check that a key signed each file of a download; signed files that were not downloaded may be absent.

    Args:
        record: record of the download, with their digests.
        public_key: the key, as PEM.

    Returns:
        the digest of the key.

    Raises:
        IntegrityError: there is no signature by that key, or a file is not one that was signed.
    """
    signature = folder / SIGNATURE_NAME
    if not signature.is_file():
        raise IntegrityError(
            f"{record.source} has no signature {SIGNATURE_NAME}.",
            hint="Ask the publisher for one, or leave --verify-signature out.",
        )
    signed = signed_files(signature.read_bytes(), public_key)
    digests = {file.path: file.digest for file in record.files if file.path != SIGNATURE_NAME}
    for said, names in (
        (
            "differ from those that were signed",
            [name for name in digests if signed.get(name, digests[name]) != digests[name]],
        ),
        ("were not signed", [name for name in digests if name not in signed]),
    ):
        if names:
            raise IntegrityError(
                f"{len(names)} files of {record.source} {said}: {', '.join(sorted(names)[:_SHOWN_NAMES])}.",
                hint="Nothing was registered or copied. Ask the publisher.",
            )
    return key_digest(public_key)
