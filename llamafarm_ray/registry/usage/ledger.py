"""Ledger of use: a file for each writer and day, ``usage/2026/11/30/<writer>.json``, replaced as a whole by its writer.

No two processes write the same file, so any number of them may write at the same time, on a folder or in a bucket. A
process that is killed loses what it used since it last wrote.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from llamafarm_ray.storage import Location
from llamafarm_ray.storage.daily_pages import page_name, read_pages

__all__ = [
    "CPU",
    "GPU",
    "LEDGER_FOLDER",
    "Amounts",
    "LedgerRow",
    "Work",
    "WorkKey",
    "gpu_name",
    "read_ledger",
    "write_page",
]


LEDGER_FOLDER: Final = "usage"
"""The folder below a registry's home."""
CPU: Final = "CPU"
"""The device of work without a GPU: a CPU core."""
GPU: Final = "GPU"
"""The device of work on GPUs whose type is not known."""
Work = Literal["dataset", "train", "tune", "evaluate", "serve", "idle"]
"""Kinds of work. ``idle`` is the time of replicas on a day without requests."""
_FORMAT: Final = 1
_TYPE: Final = "accelerator_type:"


@dataclass(frozen=True, slots=True, order=True)
class WorkKey:
    """A key that amounts are added up by.

    Args:
        namespace: the namespace; "" for names without one.
        name: the model, or the dataset of a build, without its namespace; the application of idle replicas.
        device: ``CPU``, a GPU's type such as ``L4``, or ``GPU``.
    """

    namespace: str
    name: str
    work: Work
    device: str


@dataclass(slots=True)
class Amounts:
    """Amounts of use.

    Args:
        device_s: seconds of devices: two GPUs for a minute are 120.
    """

    device_s: float = 0.0
    num_tokens: int = 0

    def take_in(self, other: Amounts) -> None:
        """Add another."""
        self.device_s += other.device_s
        self.num_tokens += other.num_tokens


LedgerRow = tuple[WorkKey, Amounts]


def gpu_name(resources: Mapping[str, float]) -> str:
    """Return the type of the GPUs among Ray's resources of a node or a cluster; ``GPU`` where there are several."""
    types = {name.removeprefix(_TYPE) for name in resources if name.startswith(_TYPE)}
    return types.pop() if len(types) == 1 else GPU


def write_page(home: Location, day: dt.date, writer: str, rows: Iterable[LedgerRow]) -> None:
    """Write a writer's use on a day, in place of its earlier page of that day.

    Args:
        day: the day (UTC).
        writer: a name that no other writer has.

    Raises:
        StorageError: the home can't be written.
    """
    written = [
        {
            "namespace": key.namespace,
            "name": key.name,
            "work": key.work,
            "device": key.device,
            "device_s": round(used.device_s, 3),
            "num_tokens": used.num_tokens,
        }
        for key, used in rows
    ]
    page = {"format": _FORMAT, "rows": written}
    home.write(
        page_name(LEDGER_FOLDER, day, writer), json.dumps(page, ensure_ascii=False, separators=(",", ":")).encode()
    )


def read_ledger(
    home: Location, since: dt.date, until: dt.date | None = None, *, leave_out: str = ""
) -> dict[WorkKey, Amounts]:
    """Add up the pages of some days. Files that are no pages are named in the log and passed over.

    Args:
        since: the first day (UTC).
        until: the last day; today by default.
        leave_out: a writer whose pages don't count.

    Raises:
        StorageError: the home can't be read.
    """
    total: dict[WorkKey, Amounts] = defaultdict(Amounts)
    day, last = since, until or dt.datetime.now(dt.UTC).date()
    while day <= last:
        for rows in read_pages(home, LEDGER_FOLDER, day, _rows, version=_FORMAT, leave_out=leave_out):
            for key, used in rows:
                total[key].take_in(used)
        day += dt.timedelta(days=1)
    return dict(total)


def _rows(page: Mapping[str, Any]) -> list[LedgerRow]:
    return [_row(values) for values in page["rows"]]


def _row(values: Mapping[str, Any]) -> LedgerRow:
    if values["work"] not in get_args(Work):
        raise ValueError(f"{values['work']!r} is no work")
    key = WorkKey(str(values["namespace"]), str(values["name"]), values["work"], str(values["device"]))
    return key, Amounts(float(values["device_s"]), int(values["num_tokens"]))
