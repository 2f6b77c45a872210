"""Cost of a namespace and model: device hours, tokens and storage, and their price where one is known."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.usage import Work, read_ledger, stored_bytes
from llamafarm_ray.training.estimate import Tables
from llamafarm_ray.types import ModelRef

__all__ = ["CostReport", "CostRow", "cost_dict", "report_cost"]

_HOUR_S: Final = 3600.0
_MONTH_S: Final = 30 * 86400.0
_GIB: Final = 1024**3
_STORAGE: Final = "storage"


@dataclass(slots=True)
class CostRow:
    """Amounts of a model, a dataset, or the idle replicas of an application.

    Args:
        name: its name without that.
        device_h: hours of devices by work and device.
        storage_bytes: bytes of the versions whose files are kept now.
        gib_months: storage in the time of the report; a month has 30 days.
        cost: price in US dollars of all that has one; None where nothing has.
        unpriced: what was used and has no known price.
    """

    namespace: str
    name: str
    device_h: dict[tuple[Work, str], float] = field(default_factory=lambda: defaultdict(float))
    num_tokens: int = 0
    storage_bytes: int = 0
    gib_months: float = 0.0
    cost: float | None = None
    unpriced: list[str] = field(default_factory=list)

    def hours(self, *works: Work) -> float:
        """Return the hours of devices of some kinds of work; of all without arguments."""
        return sum(hours for (work, _), hours in self.device_h.items() if not works or work in works)

    def set_price(self, tables: Tables) -> None:
        """Give it the price of its amounts."""
        amounts: dict[str, float] = defaultdict(float)
        for (_, device), hours in self.device_h.items():
            amounts[device] += hours
        prices = {device: tables.price_of(device) for device in amounts}
        if self.gib_months > 0:
            amounts[_STORAGE], prices[_STORAGE] = self.gib_months, tables.prices.gib_month
        known = [amounts[name] * price for name, price in prices.items() if price is not None]
        self.cost = sum(known) if known else None
        self.unpriced = sorted(name for name, price in prices.items() if price is None and amounts[name] > 0)


@dataclass(frozen=True, slots=True)
class CostReport:
    """Cost over some days.

    Args:
        since: the first day (UTC).
        rows: the most expensive first; without prices those with most hours of devices.
        price_note: date and source of the prices; "" where none was used.
    """

    since: dt.date
    rows: list[CostRow]
    price_note: str

    @property
    def cost(self) -> float | None:
        """Price of all rows that have one."""
        known = [row.cost for row in self.rows if row.cost is not None]
        return sum(known) if known else None


def report_cost(registry: RegistryApi, *, since: dt.date, tables: Tables, now: dt.datetime | None = None) -> CostReport:
    """Add up the ledger and the versions' files, of the namespaces that the caller may read.

    Args:
        since: the first day (UTC).
        now: the time up to which storage counts.

    Raises:
        StorageError: the home can't be read.
    """
    now = now or dt.datetime.now(dt.UTC)
    registry.refresh()
    rows: dict[tuple[str, str], CostRow] = {}
    for key, used in read_ledger(registry.home, since, now.date()).items():
        if registry.may(Action.READ, key.namespace):
            row = rows.setdefault((key.namespace, key.name), CostRow(key.namespace, key.name))
            row.device_h[key.work, key.device] += used.device_s / _HOUR_S
            row.num_tokens += used.num_tokens
    begin = dt.datetime.combine(since, dt.time(), dt.UTC)
    for full_name in registry.state.models:
        ref = ModelRef(full_name)
        if registry.may(Action.READ, ref.namespace):
            name = full_name.rpartition("/")[2]
            row = rows.setdefault((ref.namespace, name), CostRow(ref.namespace, name))
            _add_storage(registry, full_name, row, begin, now)
    found = [row for row in rows.values() if row.device_h or row.num_tokens or row.storage_bytes]
    for row in found:
        row.set_price(tables)
    found.sort(key=lambda row: (-(row.cost or 0.0), -row.hours(), row.namespace, row.name))
    note = f"{tables.prices.source}, as of {tables.prices.as_of}"
    return CostReport(since, found, note if any(row.cost is not None for row in found) else "")


def _add_storage(registry: RegistryApi, name: str, row: CostRow, begin: dt.datetime, now: dt.datetime) -> None:
    """Add a model's kept files, equal ones once, from the registration of the first version that has them."""
    versions = [one for one in registry.state.models[name].versions.values() if not one.purged]
    row.storage_bytes = stored_bytes(versions)
    first: dict[str, tuple[dt.datetime, int]] = {}
    for one in sorted(versions, key=lambda one: one.time):
        first.setdefault(one.registered.manifest, (one.time, one.registered.size_bytes))
    for time, size_bytes in first.values():
        seconds = max(0.0, (now - max(time, begin)).total_seconds())
        row.gib_months += size_bytes / _GIB * seconds / _MONTH_S


def cost_dict(report: CostReport) -> dict[str, object]:
    """Return a report as plain values."""
    rows = [
        {
            "namespace": row.namespace,
            "name": row.name,
            "device_hours": [
                {"work": work, "device": device, "hours": round(hours, 6)}
                for (work, device), hours in sorted(row.device_h.items())
            ],
            "tokens": row.num_tokens,
            "storage_bytes": row.storage_bytes,
            "storage_gib_months": round(row.gib_months, 6),
            "cost_usd": None if row.cost is None else round(row.cost, 4),
            "unpriced": row.unpriced,
        }
        for row in report.rows
    ]
    total = None if report.cost is None else round(report.cost, 4)
    return {"since": report.since.isoformat(), "rows": rows, "cost_usd": total, "prices": report.price_note}
