"""Usage of deployed versions, by key and route: requests, tokens and seconds of devices."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.references import namespace_of
from llamafarm_ray.serving.health.versions import chosen_versions
from llamafarm_ray.serving.journal.files import read_journal
from llamafarm_ray.serving.journal.ledger import device_shares
from llamafarm_ray.serving.journal.usage import UsageKey, Used

__all__ = ["By", "UsageReport", "UsageRow", "deployed_adapters", "last_days", "report_usage", "usage_dict"]

By = Literal["version", "model", "namespace", "key", "route"]


@dataclass(slots=True)
class UsageRow:
    """Usage of one thing.

    Args:
        name: the version, model, namespace, principal or route.
        used: requests and tokens.
        cpu_s: CPU seconds of replicas, shared out by the tokens that they served.
        gpu_s: GPU seconds likewise.
        is_deployed: True if a deployment loads it when it starts; for versions.
        storage_bytes: size of its files in the registry; for versions and models.
    """

    name: str
    used: Used = field(default_factory=Used)
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    is_deployed: bool = False
    storage_bytes: int = 0
    principals: set[str] = field(default_factory=set)

    @property
    def last(self) -> dt.datetime | None:
        """Time of the last use."""
        return dt.datetime.fromtimestamp(self.used.last_s, dt.UTC) if self.used.last_s else None


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Usage over some days.

    Args:
        since: the first day.
        rows: those with most tokens first; unused deployed versions last.
        idle_cpu_s: CPU seconds of replicas that served nothing on a day.
        idle_gpu_s: GPU seconds likewise.
    """

    since: dt.date
    rows: list[UsageRow]
    idle_cpu_s: float
    idle_gpu_s: float


def last_days(number: int) -> dt.date:
    """Return the first of the last days (UTC), today included."""
    return dt.datetime.now(dt.UTC).date() - dt.timedelta(days=number - 1)


def deployed_adapters(registry: RegistryApi) -> set[str]:
    """Return the versions that deployments on record load when they start."""
    return {ref for found in registry.state.deployments.values() for ref in found.adapters}


def report_usage(
    registry: RegistryApi, names: Sequence[str] = (), *, since: dt.date, by: By = "version"
) -> UsageReport:
    """Add up what replicas recorded.

    Args:
        names: models, versions or aliases; none: all that may be read.
        since: the first day.

    Raises:
        NotFoundError: nothing of a name was recorded.
    """
    registry.refresh()
    pages = list(read_journal(registry.home, since))
    recorded = {key.ref for page in pages for key in page.usage.rows} | deployed_adapters(registry)
    readable = {ref for ref in recorded if registry.may(Action.READ, namespace_of(ref))}
    wanted = chosen_versions(registry.resolve, names, sorted(readable)) if names else readable
    rows: dict[str, UsageRow] = defaultdict(lambda: UsageRow(""))
    idle = [0.0, 0.0]
    for page in pages:
        shares = device_shares(page.usage.rows)
        if not shares:
            idle[0] += page.seconds * page.num_cpus
            idle[1] += page.seconds * page.num_gpus
        for key, used in page.usage.rows.items():
            if key.ref in wanted:
                row = rows[_name(key, by)]
                row.used.take_in(used)
                row.principals.add(key.principal)
                row.cpu_s += shares[key] * page.seconds * page.num_cpus
                row.gpu_s += shares[key] * page.seconds * page.num_gpus
    if by == "version":
        for ref in deployed_adapters(registry) & wanted:
            rows[ref].is_deployed = True
    _add_storage(registry, rows, by)
    for name, row in rows.items():
        row.name = name
    ordered = sorted(rows.values(), key=lambda row: (-row.used.num_tokens, row.name))
    return UsageReport(since, ordered, idle[0], idle[1])


def _name(key: UsageKey, by: By) -> str:
    match by:
        case "version":
            return key.ref
        case "model":
            return key.ref.partition(":")[0]
        case "namespace":
            return namespace_of(key.ref)
        case "key":
            return key.principal
        case "route":
            return key.route


def _add_storage(registry: RegistryApi, rows: dict[str, UsageRow], by: By) -> None:
    """Add the sizes of files; each version's manifest counts once."""
    if by not in {"version", "model", "namespace"}:
        return
    seen: set[tuple[str, str]] = set()
    for record in registry.state.versions():
        name = _name(UsageKey(record.ref, "", ""), by)
        if name in rows and (name, record.registered.manifest) not in seen and record.retired is None:
            seen.add((name, record.registered.manifest))
            rows[name].storage_bytes += record.registered.size_bytes


def usage_dict(report: UsageReport) -> dict[str, object]:
    """Return a report as plain values."""
    rows = [
        {
            "name": row.name,
            **{one.name: getattr(row.used, one.name) for one in fields(Used) if one.name != "last_s"},
            "last_used": row.last.isoformat(timespec="seconds") if row.last else None,
            "cpu_s": round(row.cpu_s, 1),
            "gpu_s": round(row.gpu_s, 1),
            "is_deployed": row.is_deployed,
            "storage_bytes": row.storage_bytes,
            "principals": sorted(row.principals),
        }
        for row in report.rows
    ]
    idle = {"idle_cpu_s": round(report.idle_cpu_s, 1), "idle_gpu_s": round(report.idle_gpu_s, 1)}
    return {"since": report.since.isoformat(), "rows": rows, **idle}
