"""Dangers of a cluster, by the facts of its nodes and its dashboard: open access, and failures to come."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from llamafarm_ray.clusters.advisories import AS_OF, known_problems
from llamafarm_ray.clusters.facts import Dashboard, Node, dashboard_of
from llamafarm_ray.errors import AccessDeniedError

__all__ = ["Finding", "Level", "findings", "refuse_open_dashboard"]

_ALLOWED = "LLAMAFARM_ALLOW_OPEN_DASHBOARD"

_GIB = 2**30
_LEAST_FREE_BYTES = 2 * _GIB
_LITTLE_FREE_BYTES = 20 * _GIB
_LITTLE_FREE_SHARE = 0.05
_LONG_SKEW_S = 60.0
_SKEW_S = 5.0
_OTHERS = 0o077
_MUST_AGREE = ("python", "ray", "llamafarm_ray")
"""Ray refuses nodes where the first two differ in their minor versions; the third's classes cross between nodes."""


class Level(StrEnum):
    """Weight of a finding."""

    DANGER = "danger"
    WARNING = "warning"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: name of the check, such as ``clock``.
        hint: next step; empty if none is needed.
    """

    level: Level
    subject: str
    what: str
    hint: str = ""


def findings(nodes: Sequence[Node], dashboard: Dashboard | None) -> list[Finding]:
    """Return the findings, dangers first; one that is ``ok`` for each check without any.

    Args:
        nodes: facts of all nodes, or of this machine alone.
        dashboard: of the cluster; None if none was looked at.
    """
    checks = {
        "dashboard": _dashboard(dashboard),
        "head": _heads(nodes),
        "token": _tokens(nodes),
        "vulnerabilities": _vulnerabilities(nodes),
        "versions": _versions(nodes),
        "clock": _clocks(nodes),
        "disk": _disks(nodes),
        "shared memory": _shared_memory(nodes),
    }
    found: list[Finding] = []
    for subject, problems in checks.items():
        made = list(problems)
        found += made or [Finding(Level.OK, subject, _FINE[subject])]
    return sorted(found, key=lambda one: list(Level).index(one.level))


_FINE = {
    "dashboard": "nobody without the token can submit jobs",
    "head": "none was looked at",
    "token": "no other user can read it",
    "vulnerabilities": f"none of those known here on {AS_OF}",
    "versions": "the same on all nodes",
    "clock": f"no node's is off by {_SKEW_S:.0f} s",
    "disk": "enough on all nodes",
    "shared memory": "room for Ray's object store",
}


def _dashboard(dashboard: Dashboard | None) -> Iterator[Finding]:
    if dashboard is None:
        yield Finding(Level.OK, "dashboard", "none was looked at")
        return
    if not dashboard.answers:
        what = f"{dashboard.url} does not answer from here, so nobody knows whether it asks for a token"
        hint = "Check it on the head, or at the address by which people reach it: llamafarm cluster check --address."
        yield Finding(Level.WARNING, "dashboard", what, hint)
        return
    if not dashboard.is_open:
        return
    hint = "Start every node with RAY_AUTH_MODE=token, and the head with --dashboard-host=127.0.0.1."
    if dashboard.beyond:
        what = (
            f"{dashboard.url} takes jobs of anybody who reaches {dashboard.beyond}, without a token (CVE-2023-48022): "
            "they run any command on the cluster"
        )
        yield Finding(Level.DANGER, "dashboard", what, hint)
    else:
        what = f"{dashboard.url} takes jobs without a token, of any user of its machine"
        yield Finding(Level.WARNING, "dashboard", what, hint)


def refuse_open_dashboard(url: str) -> None:
    """Refuse a cluster whose dashboard takes jobs of strangers, unless ``$LLAMAFARM_ALLOW_OPEN_DASHBOARD`` is 1.

    Raises:
        AccessDeniedError: it answers other machines without a token.
    """
    if not url or os.environ.get(_ALLOWED) == "1":
        return
    dashboard = dashboard_of(url)
    if dashboard.is_open and dashboard.beyond:
        (found,) = _dashboard(dashboard)
        raise AccessDeniedError(
            f"{found.what}.",
            hint=f"{found.hint} Where something else keeps strangers out, say {_ALLOWED}=1.",
        )


def _heads(nodes: Iterable[Node]) -> Iterator[Finding]:
    """Yield findings about the loss of the cluster's head."""
    for node in nodes:
        if node.gcs_storage == "memory":
            what = f"Ray's control state is in the memory of {node.name} alone: with it running work is lost"
            hint = "Registered models and checkpoints stay; docs/failures.md says how to start again."
            yield Finding(Level.OK, "head", what, hint)
        elif node.gcs_storage:
            what = f"Ray's control state is kept by {node.gcs_storage}: workers wait for a head that starts again"
            yield Finding(Level.OK, "head", what)


def _tokens(nodes: Iterable[Node]) -> Iterator[Finding]:
    for node in nodes:
        for path, mode in sorted(node.modes.items()):
            if mode & _OTHERS:
                what = f"{path} on {node.name} has mode {mode:04o}: other users of that machine can read the token"
                yield Finding(Level.DANGER, "token", what, f"chmod 600 {path}, and make a new token.")


def _vulnerabilities(nodes: Sequence[Node]) -> Iterator[Finding]:
    affected: dict[tuple[str, str], list[str]] = {}
    known = {}
    for node in nodes:
        for advisory in known_problems(node.versions):
            key = (advisory.id, node.versions[advisory.package])
            known[key] = advisory
            affected.setdefault(key, []).append(node.name)
    for (number, version), names in affected.items():
        advisory = known[number, version]
        what = f"{advisory.package} {version} on {_some(names)} has {number}: {advisory.what}"
        hint = f"Install {advisory.package} {advisory.fixed_in} or later."
        yield Finding(Level.DANGER, "vulnerabilities", what, hint)


def _versions(nodes: Sequence[Node]) -> Iterator[Finding]:
    for package in dict.fromkeys(name for node in nodes for name in node.versions):
        where: dict[str, list[str]] = {}
        for node in nodes:
            where.setdefault(node.versions.get(package, "none"), []).append(node.name)
        if len(where) > 1:
            said = ", ".join(f"{version} on {_some(names)}" for version, names in sorted(where.items()))
            level = Level.DANGER if package in _MUST_AGREE else Level.WARNING
            yield Finding(level, "versions", f"{package}: {said}", "Set all nodes up from the same lock.")


def _clocks(nodes: Iterable[Node]) -> Iterator[Finding]:
    for node in nodes:
        if (off := abs(node.skew_s) - node.skew_error_s) < _SKEW_S:
            continue
        side = "ahead of" if node.skew_s > 0 else "behind"
        what = f"{node.name} is {abs(node.skew_s):.0f} s {side} this machine"
        hint = "Run a time service on it (chrony). Buckets refuse requests from 15 minutes on."
        yield Finding(Level.DANGER if off >= _LONG_SKEW_S else Level.WARNING, "clock", what, hint)


def _disks(nodes: Iterable[Node]) -> Iterator[Finding]:
    for node in nodes:
        for folder, (free, total) in sorted(node.free_bytes.items()):
            little = free < _LITTLE_FREE_BYTES or free < _LITTLE_FREE_SHARE * total
            if not little:
                continue
            level = Level.DANGER if free < _LEAST_FREE_BYTES else Level.WARNING
            what = f"{free / _GIB:.1f} of {total / _GIB:.0f} GiB are free below {folder} on {node.name}"
            hint = (
                "Ray stops taking work at 95 % of a full disk. `llamafarm models cache evict` clears pulled versions."
            )
            yield Finding(level, "disk", what, hint)


def _shared_memory(nodes: Iterable[Node]) -> Iterator[Finding]:
    for node in nodes:
        if node.shared_memory_bytes < node.object_store_bytes:
            what = (
                f"{node.name} has {node.shared_memory_bytes / _GIB:.2f} GiB of shared memory (/dev/shm), and Ray's "
                f"object store may have {node.object_store_bytes / _GIB:.2f}: then it lies on the disk"
            )
            hint = "Give the container as much (--shm-size, or an emptyDir with medium: Memory at /dev/shm)."
            yield Finding(Level.WARNING, "shared memory", what, hint)


def _some(names: Sequence[str]) -> str:
    shown = 3
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
