"""The commit log: one numbered file a commit, made by exclusive create, each naming the digest of the one before.

Of two writers that race for a number one wins; the other gets :class:`LostRaceError`, reads what it missed and decides
again. A commit holds the changes of all callers that waited for it (group commit).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llamafarm_ray.errors import InputError, IntegrityError
from llamafarm_ray.registry.events import Event
from llamafarm_ray.registry.fields import DigestText
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest

__all__ = [
    "FORMAT",
    "GENESIS",
    "STRICT_FORMAT",
    "Change",
    "Commit",
    "CommitLog",
    "Head",
    "LostRaceError",
    "commit_name",
]

FORMAT = 3
"""The format of new commits, raised when stricter rules decide what may be committed, or when a home holds files that
older releases can't read: they refuse a log of a newer format, and so remove nothing. From 2 on, approvals belong to a
principal's token, removals of aliases and steps of rollouts pass the alias's rules, and licences of the base count.
From 3 on, files may be stored in chunks."""
STRICT_FORMAT = 2
"""The first format with the stricter rules."""
_FOLDER = "log"
_MAX_READ_AHEAD = 64


class LostRaceError(Exception):
    """Another writer took the commit's number first. Only the service sees this."""


class Change(BaseModel):
    """Change by one caller, with time and reason: its events apply together or not at all.

    ``request`` is a digest of the command: a key that is used again must come with the same one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_max_length=65536)

    time: dt.datetime
    principal: str
    request: str = ""
    reason: str = ""
    idempotency_key: str = Field(max_length=256)
    events: tuple[Event, ...]


class Commit(BaseModel):
    """One entry of the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = Field(default=FORMAT, ge=1, le=FORMAT)
    sequence: int = Field(ge=1)
    previous: DigestText
    time: dt.datetime
    changes: tuple[Change, ...] = Field(min_length=1)

    def to_bytes(self) -> bytes:
        """The bytes that are stored, and that the next commit's ``previous`` is the digest of."""
        return self.model_dump_json().encode()


@dataclass(frozen=True, slots=True)
class Head:
    """A point of the log: the last commit's number and digest. Kept elsewhere, it proves that no tail was cut off."""

    sequence: int
    digest: Digest

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read what ``str`` of a head gives.

        Raises:
            InputError: the text has another form.
        """
        sequence, mark, digest = text.strip().partition("@")
        if not mark or not re.fullmatch(r"\d{1,20}", sequence, flags=re.ASCII):
            raise InputError(f"{text[:120]!r} is no head.", hint="Give what `llamafarm registry head` printed.")
        return cls(int(sequence), Digest(digest))

    def __str__(self) -> str:
        return f"{self.sequence}@{self.digest}"


GENESIS = Head(0, Digest("sha256:" + "0" * 64))
"""Before the first commit."""


class CommitLog:
    """The log below a home. It has no state of its own: callers give their head.

    Args:
        home: the registry's home; the log is its folder ``log/``.
    """

    def __init__(self, home: Location) -> None:
        self._home = home

    def read_after(self, head: Head) -> Iterator[tuple[Commit, Head]]:
        """Yield the commits after a head in order, each with the head it makes, the chain checked.

        Raises:
            IntegrityError: the head's own commit is not there (any more), or a commit is damaged or does not follow
                from the one before; it is named. Earlier commits have been given out already.
            StorageError: the log can't be read.
        """
        is_head_there = head == GENESIS
        ahead = 1  # mostly there is nothing new, and one look says so
        while True:
            names = [commit_name(head.sequence + number) for number in range(is_head_there, ahead + 1)]
            found = self._home.read_many(names)
            if not is_head_there:
                self._check_there(head, found.pop(0))
                is_head_there = True
            for data in found:
                if data is None:
                    return
                commit = self._parse(data, head)
                head = Head(commit.sequence, Digest.of(data))
                yield commit, head
            ahead = min(2 * ahead, _MAX_READ_AHEAD)

    def append(self, head: Head, changes: Sequence[Change]) -> tuple[Commit, Head]:
        """Add the commit after a head.

        Raises:
            LostRaceError: another writer added it meanwhile; nothing was written.
            StorageError: the home can't be written; the commit may be there or not; read the log to find out.
        """
        commit = Commit(
            sequence=head.sequence + 1,
            previous=head.digest,
            time=max(change.time for change in changes),
            changes=tuple(changes),
        )
        data, name = commit.to_bytes(), commit_name(commit.sequence)
        try:
            self._home.create(name, data)
        except FileExistsError:
            # An object store's client that lost the answer tries again and finds its own commit there.
            if self._read(name) != data:
                raise LostRaceError from None
        return commit, Head(commit.sequence, Digest.of(data))

    def has_next(self, head: Head) -> bool:
        """Return True if there is a commit after a head."""
        return self._home.exists(commit_name(head.sequence + 1))

    def read(self, sequence: int) -> Commit:
        """One commit that the chain was checked of before.

        Raises:
            IntegrityError: it is not there any more, or damaged.
        """
        data = self._read(commit_name(sequence))
        try:
            return Commit.model_validate_json(data or b"")
        except ValidationError:
            raise IntegrityError(f"The commit {self._home.uri}/{commit_name(sequence)} is damaged.") from None

    def last_sequence(self) -> int:
        """The highest number that the folder lists, even if some before it are missing; 0 for an empty log."""
        numbers = (name.removesuffix(".json") for name in self._home.names(_FOLDER))
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    def check_complete(self, head: Head) -> None:
        """Check that the log ends where reading it ended.

        Raises:
            IntegrityError: there are commits behind a missing one.
        """
        last = self.last_sequence()
        if last > head.sequence and self._read(commit_name(head.sequence + 1)) is None:
            raise IntegrityError(
                f"The commit {self._home.uri}/{commit_name(head.sequence + 1)} is missing, and there are later ones.",
                hint="Restore it from a backup; nothing can be changed until then.",
            )

    def _read(self, name: str) -> bytes | None:
        return self._home.read_many([name])[0]

    def _check_there(self, head: Head, data: bytes | None) -> None:
        if data is not None and Digest.of(data) == head.digest:
            return
        raise IntegrityError(
            f"The commit {self._home.uri}/{commit_name(head.sequence)}, on which this process builds, is "
            f"{'gone' if data is None else 'another one by now'}: the log was replaced while it was open.",
            hint="Nothing was changed. Put the missing commits back, or restart this process to go on without them.",
        )

    def _parse(self, data: bytes, head: Head) -> Commit:
        name = f"{self._home.uri}/{commit_name(head.sequence + 1)}"
        try:
            commit = Commit.model_validate_json(data)
        except ValidationError as error:
            raise IntegrityError(
                f"The commit {name} is damaged: {error.errors()[0]['msg']}.",
                hint="Restore this file from a backup; was it written by a newer release, upgrade.",
            ) from None
        if commit.sequence != head.sequence + 1 or commit.previous != head.digest:
            raise IntegrityError(
                f"The commit {name} does not follow from the one before it: one of the two was changed.",
                hint="Restore both from a backup.",
            )
        return commit


def commit_name(sequence: int) -> str:
    """The name of a commit's file below the home."""
    return f"{_FOLDER}/{sequence:020d}.json"
