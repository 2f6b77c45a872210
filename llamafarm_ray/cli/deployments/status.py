"""``llamafarm models status``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.deployments.rollout import rollouts_table
from llamafarm_ray.cli.options import ControlAddress, Home, Json
from llamafarm_ray.cli.terminal import console, drawn_table, print_json, redrawn

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llamafarm_ray.registry import RegistryApi
    from llamafarm_ray.serving.telemetry.request_statistics import Seen
    from llamafarm_ray.workflows.deployments.status import ApplicationStatus, Status

__all__ = ["command"]

_LOOK_S = 2.0
"""Seconds between two looks of ``--watch``."""
_NUMBERS = ("req/s", "p95 ms", "errors")
"""Of the last minute."""
_OF_REPLICAS = ("replica", "node", "state", "loaded", *_NUMBERS, "queue")
_OF_VERSIONS = ("version", "digest", "aliases", "on", *_NUMBERS)


def command(
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until Ctrl-C.")] = False,
    home: Home = None,
    address: ControlAddress = None,
    as_json: Json = False,
) -> None:
    """Show what runs where: applications, replicas, loaded versions, rollouts, and how the last minute was."""
    from llamafarm_ray.errors import InputError
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.clusters.cluster import connect
    from llamafarm_ray.workflows.deployments.status import Status, cluster_of, cluster_status, status_dict

    if watch and as_json:
        raise InputError("Both --watch and --json were given.", hint="Leave one of them out.")
    registry = open_registry(home)
    cluster = address or cluster_of(registry) or os.environ.get("RAY_ADDRESS")
    if cluster is None:
        found = Status()
    else:
        with connect(cluster):
            if watch:
                redrawn(_views(registry))
            found = cluster_status(registry)
    if as_json:
        print_json(status_dict(found))
    else:
        console.print(_view(found))


def _views(registry: RegistryApi) -> Iterator[RenderableType]:
    """Yield the view again and again."""
    from llamafarm_ray.workflows.deployments.status import cluster_status

    before: Status | None = None
    while True:
        found = cluster_status(registry)
        if found != before:
            yield _view(found)
        before = found
        time.sleep(_LOOK_S)


def _view(found: Status) -> RenderableType:
    """A table for each kind of thing that there is."""
    from rich.console import Group

    applications = found.applications
    if not applications:
        return "Nothing is deployed."
    tables = [
        drawn_table(
            "Applications",
            ("application", "status", *_NUMBERS, "queue", "address"),
            [(one.name, one.status, *_cells(one.seen), one.num_waiting, one.url) for one in applications],
            whole=("status", *_NUMBERS, "queue"),
        )
    ]
    for one in applications:
        suffix = f" of {one.name}" if len(applications) > 1 else ""
        tables += [
            drawn_table(f"Replicas{suffix}", _OF_REPLICAS, _replicas(one), whole=_OF_REPLICAS),
            drawn_table(f"Versions{suffix}", _OF_VERSIONS, _versions(one), whole=("digest", "on", *_NUMBERS)),
        ]
    if found.rollouts:
        tables.append(rollouts_table(found.rollouts, brief=True))
    problems = [(one.name, one.message) for one in applications if one.message]
    if problems:
        tables.append(drawn_table("Problems", ("application", "what Ray Serve says"), problems))
    return Group(*tables)


def _replicas(application: ApplicationStatus) -> list[tuple[object, ...]]:
    return [
        (one.id, one.node, one.state, one.num_loaded, *_cells(one.seen), one.num_waiting)
        if one.answers
        else (one.id, one.node, one.state, *[""] * (len(_NUMBERS) + 2))
        for one in application.replicas
    ]


def _versions(application: ApplicationStatus) -> list[tuple[object, ...]]:
    num_replicas = len(application.replicas)
    return [
        (
            one.ref,
            one.digest.removeprefix("sha256:")[:12],
            ", ".join(one.aliases),
            f"{one.num_replicas} of {num_replicas}",
            *_cells(one.seen),
        )
        for one in application.versions
    ]


def _cells(seen: Seen) -> Sequence[object]:
    """The last minute."""
    latency_ms = seen.minute_latency_ms
    return f"{seen.requests_per_s:.2g}", "" if latency_ms is None else f"{latency_ms:,.0f}", seen.minute.errors
