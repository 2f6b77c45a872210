"""Status of a cluster: applications, their replicas and versions, and their health."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamafarm_ray.registry import RegistryApi, RolloutRecord
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.serving.telemetry.request_statistics import Activity, Seen, joined
from llamafarm_ray.types import ModelRef
from llamafarm_ray.workflows.deployments.deployed import APPLICATION
from llamafarm_ray.workflows.deployments.rollouts import rollout_dict, rollouts

if TYPE_CHECKING:
    from llamafarm_ray.serving.ray_serve.replicas import RunningApplication, RunningReplica

__all__ = [
    "ApplicationStatus",
    "ReplicaStatus",
    "Status",
    "VersionStatus",
    "cluster_of",
    "cluster_status",
    "status_dict",
]


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A replica.

    Attributes:
        node: the machine's address.
        answers: True if it answered; otherwise nothing below is known.
        num_loaded: versions that are loaded besides the base.
        num_waiting: requests that wait for their turn.
    """

    id: str
    node: str
    state: str
    answers: bool
    num_loaded: int
    num_waiting: int
    seen: Seen


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """A version that is loaded, or answered in the last minute.

    Attributes:
        ref: ``name:version``, or the base's name.
        digest: of its manifest; empty for the base, and for versions that are not registered.
        aliases: those that point at it now.
    """

    ref: str
    digest: str
    aliases: tuple[str, ...]
    num_replicas: int
    seen: Seen


@dataclass(frozen=True, slots=True)
class ApplicationStatus:
    """An application.

    Attributes:
        url: the OpenAI-compatible root; empty where Serve listens nowhere.
        base_model: name of its base in requests; empty where no replica tells it.
        versions: versions that they have loaded, the base first.
    """

    name: str
    url: str
    status: str
    message: str
    base_model: str
    replicas: tuple[ReplicaStatus, ...]
    versions: tuple[VersionStatus, ...]
    seen: Seen

    @property
    def num_waiting(self) -> int:
        """Requests that wait for their turn, at all replicas."""
        return sum(replica.num_waiting for replica in self.replicas)


@dataclass(frozen=True, slots=True)
class Status:
    """All applications, and the rollouts under way."""

    applications: tuple[ApplicationStatus, ...] = ()
    rollouts: tuple[RolloutRecord, ...] = ()


def cluster_of(registry: RegistryApi) -> str | None:
    """The address of the cluster with the recorded deployment; ``None`` where nothing is recorded."""
    found = registry.refresh().deployments
    recorded = found.get(APPLICATION) or next(iter(found.values()), None)
    return recorded.ray_address if recorded is not None else None


def cluster_status(registry: RegistryApi) -> Status:
    """Return the status of the connected cluster, with the registry's facts.

    It lists the versions and rollouts that the caller may read.
    """
    from llamafarm_ray.serving.ray_serve.replicas import applications  # reads the environment
    from llamafarm_ray.serving.ray_serve.state import http_root  # reads the environment

    registry.refresh()
    root = http_root() or ""
    return Status(tuple(_application(one, root, registry) for one in applications()), tuple(rollouts(registry)))


def _application(found: RunningApplication, root: str, registry: RegistryApi) -> ApplicationStatus:
    activities = [replica.activity for replica in found.replicas if replica.activity is not None]
    seen = joined(activities)
    return ApplicationStatus(
        name=found.name,
        url=f"{root}{found.route_prefix.rstrip('/')}/v1" if root and found.route_prefix else "",
        status=found.status,
        message=found.message,
        base_model=activities[0].base_model if activities else "",
        replicas=tuple(map(_replica, found.replicas)),
        versions=tuple(_versions(activities, seen, registry)),
        seen=sum(seen.values(), Seen()),
    )


def _replica(found: RunningReplica) -> ReplicaStatus:
    told = found.activity or Activity("")
    return ReplicaStatus(
        id=found.id,
        node=found.node,
        state=found.state,
        answers=found.activity is not None,
        num_loaded=len(told.loaded),
        num_waiting=told.num_waiting,
        seen=sum(told.seen.values(), Seen()),
    )


def _versions(
    activities: Sequence[Activity], seen: Mapping[str, Seen], registry: RegistryApi
) -> Iterator[VersionStatus]:
    bases = Counter(activity.base_model for activity in activities)
    loaded = Counter(name.partition("#")[0] for activity in activities for name in activity.loaded)
    busy = {ref for ref, one in seen.items() if one.minute.requests}
    for base, count in bases.items():
        yield VersionStatus(base, "", (), count, seen.get(base, Seen()))
    for ref in sorted({*loaded, *busy} - set(bases), key=_order):
        parsed = ModelRef.parse(ref)
        if not registry.may(Action.READ, parsed.namespace):
            continue
        model = registry.state.models.get(parsed.name)
        number = str(parsed.version)
        if model is None or number not in model.versions:  # it is served from another home
            yield VersionStatus(ref, "", (), loaded[ref], seen.get(ref, Seen()))
            continue
        manifest, aliases = model.versions[number].registered.manifest, model.pointing_at(number)
        yield VersionStatus(ref, manifest, tuple(aliases), loaded[ref], seen.get(ref, Seen()))


def _order(ref: str) -> tuple[str, object]:
    parsed = ModelRef.parse(ref)
    return parsed.name, parsed.version


def status_dict(status: Status) -> dict[str, object]:
    """A status as plain values, for programs."""
    return {
        "applications": [
            {
                "name": one.name,
                "url": one.url,
                "status": one.status,
                "message": one.message,
                "base_model": one.base_model,
                **_numbers(one.seen),
                "waiting": one.num_waiting,
                "replicas": [
                    {
                        "id": replica.id,
                        "node": replica.node,
                        "state": replica.state,
                        "answers": replica.answers,
                        "loaded": replica.num_loaded,
                        **_numbers(replica.seen),
                        "waiting": replica.num_waiting,
                    }
                    for replica in one.replicas
                ],
                "versions": [
                    {
                        "version": version.ref,
                        "digest": version.digest,
                        "aliases": list(version.aliases),
                        "replicas": version.num_replicas,
                        **_numbers(version.seen),
                    }
                    for version in one.versions
                ],
            }
            for one in status.applications
        ],
        "rollouts": [rollout_dict(rollout) for rollout in status.rollouts],
    }


def _numbers(seen: Seen) -> dict[str, object]:
    """The last minute."""
    return {
        "requests_per_s": round(seen.requests_per_s, 3),
        "p95_latency_ms": round(seen.minute_latency_ms, 1) if seen.minute_latency_ms is not None else None,
        "errors": seen.minute.errors,
    }
