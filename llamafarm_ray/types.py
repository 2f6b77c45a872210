"""Small frozen values that every layer shares: digests, semantic versions, model references, kinds."""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Self

from llamafarm_ray.errors import InputError

__all__ = [
    "AUTO_MODEL",
    "DURATION",
    "FEEDBACK_FOLDER",
    "MODEL_NAME",
    "NAME",
    "DeviceUse",
    "Digest",
    "ModelKind",
    "ModelRef",
    "Version",
    "duration",
]

NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
"""The pattern of alias and namespace names: letters, digits, ``._-`` inside, 96 characters at most."""

MODEL_NAME = rf"(?:{NAME}/)?{NAME}"
"""The pattern of model and dataset names: a name, or ``namespace/name``."""

DURATION = r"(\d{1,5})\s*([smhdw])"
"""The pattern of lengths of time: ``90s``, ``30m``, ``24h``, ``30d``, ``2w``."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

AUTO_MODEL = "auto"
"""The name in requests that leave the choice of the model to the server; no model has it."""

FEEDBACK_FOLDER = "feedback"
"""The folder below a registry's home where what users say of answers is kept."""

_SEMVER = re.compile(
    r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})"
    r"(?:-((?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*))?"
)


class ModelKind(enum.StrEnum):
    """Kind of a registered version."""

    BASE = "base"
    ADAPTER = "adapter"
    MERGED = "merged"
    QUANTIZED = "quantized"
    EMBEDDING = "embedding"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """Use of devices: of GPUs, or of CPU cores by work that has no GPU.

    Args:
        seconds: seconds times devices.
    """

    seconds: float
    on_gpu: bool = False


def duration(text: str) -> dt.timedelta:
    """Read a length of time, see :data:`DURATION`.

    Raises:
        InputError: the text has another form.
    """
    match = re.fullmatch(DURATION, text.strip())
    if match is None:
        raise InputError(f"{text[:120]!r} is no length of time.", hint="Write it like 30m, 24h, 30d or 2w.")
    return dt.timedelta(**{_UNITS[match[2]]: int(match[1])})


class Digest(str):
    """A content digest in OCI's spelling, ``sha256:`` and 64 lower-case hexadecimal digits.

    Raises:
        InputError: the text has another form.
    """

    __slots__ = ()
    _FORM = re.compile(r"sha256:[0-9a-f]{64}")

    def __new__(cls, value: str) -> Self:
        """Check the form."""
        if not cls._FORM.fullmatch(value):
            raise InputError(f"{value!r} is not a digest.", hint="A digest is 'sha256:' and 64 hexadecimal digits.")
        return super().__new__(cls, value)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """The digest of ``data``."""
        return cls(f"sha256:{hashlib.sha256(data).hexdigest()}")

    @property
    def hex(self) -> str:
        """The 64 hexadecimal digits."""
        return self[7:]

    @property
    def short(self) -> str:
        """The first 12 hexadecimal digits, for people."""
        return self[7:19]


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A semantic version without build metadata, ordered as https://semver.org section 11 says."""

    major: int
    minor: int
    patch: int
    prerelease: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``1.2.0`` or ``1.2.0-rc.1``.

        Raises:
            InputError: the text is not a semantic version.
        """
        match = _SEMVER.fullmatch(text)
        if match is None:
            raise InputError(f"{text!r} is not a semantic version.", hint="Write it like 1.2.0 or 1.2.0-rc.1.")
        major, minor, patch, prerelease = match.groups()
        return cls(int(major), int(minor), int(patch), prerelease or "")

    def bump(self, part: str) -> Self:
        """The next version: ``part`` is ``major``, ``minor`` or ``patch``."""
        match part:
            case "major":
                return type(self)(self.major + 1, 0, 0)
            case "minor":
                return type(self)(self.major, self.minor + 1, 0)
            case "patch":
                return type(self)(self.major, self.minor, self.patch + 1)
        raise InputError(f"{part!r} is no part of a version.", hint="Use major, minor or patch.")

    def __str__(self) -> str:
        core = f"{self.major}.{self.minor}.{self.patch}"
        return f"{core}-{self.prerelease}" if self.prerelease else core

    def __lt__(self, other: Version) -> bool:
        return self._order() < other._order()

    def _order(self) -> tuple[object, ...]:
        parts = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in self.prerelease.split(".") if p)
        return (self.major, self.minor, self.patch, not self.prerelease, parts)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A reference to a registered model: ``name``, ``name:1.2.0`` or ``name@production``."""

    name: str
    version: Version | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference.

        Raises:
            InputError: the text is no reference; the message says which part is wrong.
        """
        match = re.fullmatch(rf"({MODEL_NAME})(?:(:|@)(.*))?", text, flags=re.DOTALL)
        if match is None:
            raise InputError(
                f"{text[:120]!r} is not a model reference.", hint="Write name, name:1.2.0 or name@production."
            )
        name, mark, rest = match.groups()
        if mark == ":":
            return cls(name, version=Version.parse(rest))
        if mark == "@":
            if not re.fullmatch(NAME, rest):
                raise InputError(f"{rest[:120]!r} is not an alias name.", hint="Use letters, digits, '.', '_' and '-'.")
            return cls(name, alias=rest)
        return cls(name)

    @property
    def namespace(self) -> str:
        """Part of the name before ``/``; empty without one."""
        return self.name.rpartition("/")[0]

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}:{self.version}"
        return f"{self.name}@{self.alias}" if self.alias else self.name
