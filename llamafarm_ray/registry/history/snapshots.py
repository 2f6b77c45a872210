"""Snapshots of the state beside the log: they bound what must be read again, and hold nothing that it does not."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from llamafarm_ray.errors import InputError, IntegrityError
from llamafarm_ray.registry.log import Commit, Head, commit_name
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest

__all__ = ["Snapshot", "Snapshots", "dump_state", "load_state"]

_FOLDER = "snapshots"
_FORMAT = 3
"""Raised when states get more in them: 2 has the moves of removed aliases, 3 every registration of a dataset,
generations of principals and the last commit that is dated before the one before it."""
_STATE = TypeAdapter(RegistryState)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state, and the head of the log that it is the state of."""

    state: RegistryState
    head: Head


class Snapshots:
    """The snapshots below a home. They may be deleted at any time: the log says everything again."""

    def __init__(self, home: Location) -> None:
        self._home = home

    def newest(self, *, at: dt.datetime | None = None) -> Snapshot | None:
        """The newest intact snapshot whose commit is in the log; with ``at`` the newest that is not younger."""
        for sequence in reversed(self.sequences()):
            try:
                data = self._home.read(commit_name(sequence))
                if at is not None and Commit.model_validate_json(data).time > at:
                    continue  # told by the commit, which is small
                snapshot = self.read(sequence)
            except (IntegrityError, FileNotFoundError, ValidationError):  # the one before, and more to read
                continue
            if snapshot.head.digest == Digest.of(data):
                return snapshot
        return None

    def sequences(self) -> list[int]:
        """The numbers of the commits that there are snapshots of, ascending."""
        numbers = (name.removesuffix(".json") for name in self._home.names(_FOLDER))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def read(self, sequence: int) -> Snapshot:
        """The snapshot of the state after a commit.

        Raises:
            FileNotFoundError: there is none, or it is of a release whose states had less in them: the log says all.
            IntegrityError: it is damaged.
        """
        name = _name(sequence)
        first, _, body = self._home.read(name).partition(b"\n")
        try:
            header = json.loads(first)
            if header["format_version"] < _FORMAT:
                raise FileNotFoundError(name)
            if Digest.of(body) == header["state"]:
                return Snapshot(load_state(body), Head(sequence, Digest(header["head"])))
            error: Exception = IntegrityError("the digest of its state is another")
        except (ValueError, KeyError, TypeError, InputError) as found:
            error = found
        raise IntegrityError(
            f"The snapshot {self._home.uri}/{name} is damaged: {error}.", hint="Delete it; the log is enough."
        )

    def write(self, snapshot: Snapshot) -> None:
        """Keep a snapshot; an existing one stays.

        Raises:
            StorageError: the home can't be written.
        """
        body = dump_state(snapshot.state)
        header = json.dumps({"format_version": _FORMAT, "head": snapshot.head.digest, "state": Digest.of(body)})
        with contextlib.suppress(FileExistsError):
            self._home.create(_name(snapshot.head.sequence), header.encode() + b"\n" + body)


def dump_state(state: RegistryState) -> bytes:
    """A state as JSON; equal states give equal bytes."""
    return json.dumps(_STATE.dump_python(state, mode="json"), sort_keys=True, separators=(",", ":")).encode()


def load_state(data: bytes) -> RegistryState:
    """Load the output of :func:`dump_state`.

    Raises:
        ValueError: it is something else.
    """
    try:
        return _STATE.validate_json(data)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from None


def _name(sequence: int) -> str:
    return f"{_FOLDER}/{sequence:020d}.json"
