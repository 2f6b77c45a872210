"""The commit log: one numbered file a commit, made by exclusive create, each naming the digest of the one before.

Of two writers that race for a number one wins; the other gets :class:`LostRaceError`, reads what it missed and decides
again.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llamafarm_ray.errors import IntegrityError
from llamafarm_ray.registry.events import Event
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest

__all__ = ["GENESIS", "Commit", "CommitLog", "LostRaceError"]

GENESIS = "sha256:" + "0" * 64
"""What the first commit names as the one before it."""


class LostRaceError(Exception):
    """Another writer took the commit's number first. Only the service sees this."""


class Commit(BaseModel):
    """One entry of the log: who did what, when, why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    sequence: int = Field(ge=1)
    previous: str
    time: dt.datetime
    principal: str
    reason: str = ""
    idempotency_key: str
    events: tuple[Event, ...]

    def to_bytes(self) -> bytes:
        """The bytes that are stored, and that the next commit's ``previous`` is the digest of."""
        return self.model_dump_json().encode()


class CommitLog:
    """The log below a home, read forward from where this object stands.

    Args:
        home: the registry's home; the log is its folder ``log/``.
    """

    def __init__(self, home: Location) -> None:
        self._home = home
        self.sequence = 0
        self.head = GENESIS

    def read_new(self) -> list[Commit]:
        """The commits after the last one seen, in order, the chain checked.

        Raises:
            IntegrityError: a commit is damaged, or does not follow from the one before; it is named.
        """
        commits: list[Commit] = []
        while (data := self._read(self.sequence + 1)) is not None:
            commit = self._parse(data)
            self.sequence, self.head = commit.sequence, Digest.of(data)
            commits.append(commit)
        return commits

    def append(self, **fields: Any) -> Commit:
        """Add the next commit; the fields are those of :class:`Commit` less ``sequence`` and ``previous``.

        Raises:
            LostRaceError: another writer added a commit meanwhile; nothing was written.
            StorageError: the home can't be written.
        """
        commit = Commit(sequence=self.sequence + 1, previous=self.head, **fields)
        data = commit.to_bytes()
        try:
            self._home.create(_name(commit.sequence), data)
        except FileExistsError:
            raise LostRaceError from None
        self.sequence, self.head = commit.sequence, Digest.of(data)
        return commit

    def _read(self, sequence: int) -> bytes | None:
        try:
            return self._home.read(_name(sequence))
        except FileNotFoundError:
            return None

    def _parse(self, data: bytes) -> Commit:
        name = f"{self._home.uri}/{_name(self.sequence + 1)}"
        try:
            commit = Commit.model_validate_json(data)
        except ValidationError as error:
            raise IntegrityError(
                f"The commit {name} is damaged: {error.errors()[0]['msg']}.", hint="Restore this file from a backup."
            ) from None
        if commit.sequence != self.sequence + 1 or commit.previous != self.head:
            raise IntegrityError(
                f"The commit {name} does not follow from the one before it.", hint="It or its predecessor was changed."
            )
        return commit


def _name(sequence: int) -> str:
    return f"log/{sequence:020d}.json"
