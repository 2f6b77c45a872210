"""The record of a download: where it came from, when, with which digests and under which licence."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.formats.gguf import read_gguf
from llamafarm_ray.storage.local import write_whole
from llamafarm_ray.types import Digest

__all__ = ["DownloadRecord", "FileRecord", "boot_id", "find_licence"]

_FORMAT = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CARD = re.compile(r"---\r?\n(.*?)\r?\n---", re.DOTALL)
_MAX_CARD_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of a download.

    Attributes:
        digest: its sha256.
        modified_ns: the time of its last change when its bytes were checked.
        address: address of its origin, without secrets.
        validator: the ETag there.
    """

    path: str
    size_bytes: int
    digest: Digest
    modified_ns: int
    address: str = ""
    validator: str = ""


@dataclass(frozen=True, slots=True)
class DownloadRecord:
    """A download in the cache.

    Attributes:
        kind: ``hub``, ``web``, ``store``, ``oci`` or ``local``.
        source: the address, without secrets.
        revision: the revision that was asked for; empty for the newest.
        include: the patterns that were asked for.
        resolved: the resolved revision: a commit, a digest, a digest of ETags.
        licence: an SPDX id where the source names one.
        downloaded_at: time of the download, in ISO 8601.
        boot: the machine's boot in which its bytes were checked.
    """

    kind: str
    source: str
    revision: str
    include: tuple[str, ...]
    resolved: str
    name: str
    manifest: Digest
    files: tuple[FileRecord, ...]
    licence: str
    downloaded_at: str
    boot: str
    format: int = _FORMAT

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)

    def to_json(self) -> dict[str, object]:
        """Return the record as JSON."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> DownloadRecord | None:
        """Read a record; ``None`` where there is none, or one that this release can't use."""
        try:
            said = json.loads(path.read_bytes())
            if said.pop("format") != _FORMAT:
                return None
            files = tuple(FileRecord(**file | {"digest": Digest(file["digest"])}) for file in said.pop("files"))
            manifest, include = Digest(said.pop("manifest")), tuple(said.pop("include"))
            return cls(**said, manifest=manifest, include=include, files=files)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, InputError):
            return None

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        write_whole(path, json.dumps(self.to_json(), indent=2) + "\n")


def boot_id() -> str:
    """Return an id of this boot of the machine; empty if there is none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def find_licence(folder: Path, files: Sequence[str]) -> str:
    """Return the licence that a model's card or GGUF file names; empty where neither does."""
    for name in files:
        if name.lower() == "readme.md" and (licence := _card_licence(folder / name)):
            return licence
    for name in files:
        if name.lower().endswith(".gguf"):
            return str(read_gguf(folder / name).facts.get("general.license", ""))
    return ""


def _card_licence(path: Path) -> str:
    """Return the licence in the YAML before a card's text; for one of a name of its own, that."""
    with path.open("rb") as file:
        match = _CARD.match(file.read(_MAX_CARD_BYTES).decode(errors="replace").lstrip("\ufeff"))
    try:
        said = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return ""
    if not isinstance(said, dict):
        return ""
    licence = said.get("license")
    if licence == "other" and isinstance(said.get("license_name"), str):
        licence = said["license_name"]
    if isinstance(licence, list):
        return " OR ".join(str(one) for one in licence)
    return licence if isinstance(licence, str) else ""
