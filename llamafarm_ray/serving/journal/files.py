"""Files of the journal: one for each replica and day, replaced as a whole, ``journal/2026/11/29/<replica>.json``.

A replica that is killed loses what it saw since it last wrote, and never damages what it wrote before.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llamafarm_ray.serving.journal.blocks import read_blocks
from llamafarm_ray.serving.journal.samples import LiveSample, read_samples
from llamafarm_ray.serving.journal.sketch import Sketch
from llamafarm_ray.serving.journal.usage import UsageTable, read_usage
from llamafarm_ray.storage import Location
from llamafarm_ray.storage.daily_pages import page_name, read_pages

__all__ = ["JOURNAL_FOLDER", "Page", "day_name", "journal_days", "page_bytes", "read_journal", "remove_old"]


JOURNAL_FOLDER: Final = "journal"
"""The folder below a registry's home."""
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Page:
    """Record of one replica on one day.

    Args:
        replica: a name of the replica, new each time that it starts.
        day: the day (UTC).
        start_s: start of the replica's record on that day, seconds since 1970.
        end_s: time of its last write.
        blocks: sketches by version, the oldest first.
        usage: usage by version, principal and route.
        samples: redacted samples, where they are asked for.
    """

    application: str
    replica: str
    day: dt.date
    start_s: float
    end_s: float
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    blocks: Mapping[str, list[Sketch]] = field(default_factory=dict)
    usage: UsageTable = field(default_factory=UsageTable)
    samples: list[LiveSample] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Recorded seconds that the replica ran on that day."""
        return max(0.0, self.end_s - self.start_s)


def page_bytes(page: Mapping[str, object], blocks: str) -> bytes:
    """Return the bytes of a page.

    Args:
        page: its plain values without the blocks.
        blocks: these as JSON, see :meth:`.blocks.Blocks.to_json`.
    """
    head = json.dumps({"format": _FORMAT, **page}, ensure_ascii=False, separators=(",", ":"))
    return f'{head[:-1]},"blocks":{blocks}}}'.encode()


def day_name(day: dt.date, replica: str) -> str:
    """Return the name of a replica's file of a day."""
    return page_name(JOURNAL_FOLDER, day, replica)


def journal_days(home: Location) -> list[dt.date]:
    """Return the days that there are files of, the oldest first."""
    days = set()
    for file in home.walk(JOURNAL_FOLDER):
        day = _day_of(file.name)
        if day is not None:
            days.add(day)
    return sorted(days)


def read_journal(home: Location, since: dt.date | None = None) -> Iterator[Page]:
    """Yield the pages of all replicas, by day; files that are no pages are named in the log and passed over.

    Args:
        since: the first day; None: all.
    """
    for day in journal_days(home):
        if since is not None and day < since:
            continue
        yield from read_pages(home, JOURNAL_FOLDER, day, functools.partial(_page, day), version=_FORMAT)


def remove_old(home: Location, before: dt.date) -> int:
    """Remove the files of the days before one; return how many."""
    old = [file.name for file in home.walk(JOURNAL_FOLDER) if (day := _day_of(file.name)) is not None and day < before]
    for name in old:
        home.remove(name)
    return len(old)


def _day_of(name: str) -> dt.date | None:
    """Return the day of a file's name; None for other files."""
    parts = name.removeprefix(f"{JOURNAL_FOLDER}/").split("/")
    if len(parts) != 4:  # year, month, day, file
        return None
    try:
        return dt.date(*map(int, parts[:3]))
    except ValueError:
        return None


def _page(day: dt.date, values: Mapping[str, Any]) -> Page:
    return Page(
        application=str(values["application"]),
        replica=str(values["replica"]),
        day=day,
        start_s=float(values["start_s"]),
        end_s=float(values["end_s"]),
        num_cpus=float(values.get("num_cpus", 0)),
        num_gpus=float(values.get("num_gpus", 0)),
        blocks=read_blocks(values["blocks"]),
        usage=read_usage(values["usage"]),
        samples=read_samples(values.get("samples", [])),
    )
