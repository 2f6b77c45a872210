"""The Ray of this user on this machine that stays (`llamafarm up`): its record, and how verbs find it.

The record is a file of mode 0600 in the home, one for each machine that shares the home. A record whose keeper is gone
(the machine was rebooted, the pid is another process's by now) is removed by the next reader.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from llamafarm_ray.clusters.leftovers import end_leftovers
from llamafarm_ray.errors import ClusterError

__all__ = ["StandingRay", "boot_id", "find", "folder_of_records", "record", "remove", "start_lock"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SAME_START_S = 1.0


@dataclass(frozen=True, slots=True)
class StandingRay:
    """A Ray that stays, as it is recorded.

    Attributes:
        address: its control address, ``127.0.0.1:port``.
        dashboard_url: of its dashboard; empty if it has none.
        token: shown to users who connect.
        pid: of its keeper, the process that ends it.
        started: time that the keeper started, in seconds since 1970.
        boot_id: of the machine's present run, by the kernel.
        folder: of everything that it writes.
        idle_timeout_s: seconds without use after which it ends; 0: it does not.
        python: the interpreter that its workers run.
    """

    address: str
    dashboard_url: str
    token: str = dataclasses.field(repr=False)
    pid: int
    started: float
    boot_id: str
    folder: str
    idle_timeout_s: float
    ray_version: str
    python: str

    @property
    def is_alive(self) -> bool:
        """Return True if the keeper of the record runs: the same process, since the same boot."""
        if self.boot_id != boot_id():
            return False
        try:
            keeper = psutil.Process(self.pid)
            is_same = abs(keeper.create_time() - self.started) < _SAME_START_S
            return bool(is_same and keeper.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


def boot_id() -> str:
    """Return the kernel's id of this run of the machine."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # a container without /proc/sys
        return f"{psutil.boot_time():.0f}"


def folder_of_records() -> Path:
    """Return the folder of the records: in ``$LLAMAFARM_HOME``, or in ``~/.llamafarm`` where that is a bucket."""
    home = os.environ.get("LLAMAFARM_HOME") or ""
    local = Path("~/.llamafarm" if not home or "://" in home else home).expanduser()
    return local.absolute() / "rays"


def find() -> StandingRay | None:
    """Return the Ray of this user that stays on this machine; remove the record and the remains of one that is gone."""
    path = _record_file()
    try:
        found = StandingRay(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):  # cut short, or of another release
        found = None
    if found is not None and found.is_alive:
        return found
    with contextlib.suppress(OSError):
        path.unlink()
    if found is not None and found.boot_id == boot_id():
        end_leftovers(Path(found.folder), grace_s=0)
        shutil.rmtree(found.folder, ignore_errors=True)
    return None


def record(ray: StandingRay) -> None:
    """Write the record, readable by this user alone."""
    path = _record_file()
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as made:  # mode 0600
        json.dump(dataclasses.asdict(ray), made)
    Path(made.name).replace(path)


def remove(pid: int) -> None:
    """Remove the record of the keeper ``pid``; leave one that a later keeper wrote."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        if json.loads(_record_file().read_text(encoding="utf-8"))["pid"] == pid:
            _record_file().unlink()


@contextlib.contextmanager
def start_lock() -> Iterator[None]:
    """Start or stop a Ray that stays alone, so that two who start one at once get the same.

    Raises:
        ClusterError: the records are another user's.
    """
    from llamafarm_ray.storage.locks import exclusive  # half a second, which commands that only look a Ray up save

    folder = folder_of_records()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ClusterError(
            f"{folder} belongs to another user, whose Ray it is about.",
            hint="Set LLAMAFARM_HOME to a folder of your own, or to a bucket for a home that several users share.",
        )
    with exclusive(folder / f"{socket.gethostname()}.lock"):
        yield


def _record_file() -> Path:
    return folder_of_records() / f"{socket.gethostname()}.json"
