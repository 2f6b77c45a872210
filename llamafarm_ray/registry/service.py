"""The registry itself: state, log and content store behind calls that check, then commit."""

from __future__ import annotations

import datetime as dt
import getpass
import os
import threading
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from llamafarm_ray import __version__
from llamafarm_ray.errors import ConflictError, InputError
from llamafarm_ray.registry.events import AliasMoved, Event, VersionRegistered
from llamafarm_ray.registry.log import Commit, CommitLog, LostRaceError
from llamafarm_ray.registry.state import RegistryState, VersionRecord
from llamafarm_ray.storage import ContentStore, Location
from llamafarm_ray.types import Digest, ModelKind, ModelRef, Version

__all__ = ["RegistryService", "check_name", "open_registry"]

_MAX_RACES = 100


class RegistryService:
    """A registry at a home. Safe to use from several threads; several processes may share a home.

    Args:
        home: where it lasts.
        principal: who changes are recorded for; the operating system's user by default.
    """

    def __init__(self, home: Location, *, principal: str | None = None) -> None:
        self.home = home
        self.content = ContentStore(home)
        self.state = RegistryState()
        self.history: list[Commit] = []
        self._principal = principal or os.environ.get("LLAMAFARM_PRINCIPAL") or getpass.getuser()
        self._log = CommitLog(home)
        self._lock = threading.RLock()
        self.refresh()

    def refresh(self) -> list[Commit]:
        """Take in what other writers committed; the new commits, in order."""
        with self._lock:
            commits = self._log.read_new()
            for commit in commits:
                self._take_in(commit)
            return commits

    def commit(
        self,
        events: Iterable[Event] | Callable[[RegistryState], Iterable[Event]],
        *,
        reason: str = "",
        idempotency_key: str | None = None,
    ) -> int:
        """Check events against the newest state and append them as one commit; all or none.

        A lost race reloads and checks again. A key that was committed before changes nothing.

        Args:
            events: the events, or a function that makes them from the newest state.
            reason: why, for the history.
            idempotency_key: what makes a repeated call the same call.

        Returns:
            the commit's sequence number.

        Raises:
            ConflictError: an event may not follow the state, or too many writers race.
            NotFoundError: an event names what does not exist.
            StorageError: the home can't be written; nothing was committed.
        """
        key = idempotency_key or uuid.uuid4().hex
        with self._lock:
            for _ in range(_MAX_RACES):
                self.refresh()
                if key in self.state.commits_by_key:
                    return self.state.commits_by_key[key]
                new = tuple(events(self.state) if callable(events) else events)
                for event in new:
                    self.state.check(event)
                try:
                    commit = self._log.append(
                        time=dt.datetime.now(dt.UTC),
                        principal=self._principal,
                        reason=reason,
                        idempotency_key=key,
                        events=new,
                    )
                except LostRaceError:
                    continue
                self._take_in(commit)
                return commit.sequence
        raise ConflictError(f"{_MAX_RACES} other writers were faster at {self.home.uri}.", hint="Try again.")

    def register(
        self,
        folder: Path,
        *,
        name: str,
        kind: ModelKind,
        version: str | None = None,
        bump: Literal["major", "minor", "patch"] = "minor",
        reason: str = "",
        **details: Any,
    ) -> VersionRecord:
        """Publish a folder's files and register them as a version.

        Args:
            folder: the model's or adapter's files.
            name: the model's name.
            kind: what it is.
            version: its number; by default the next after the highest (``bump`` says which part), ``1.0.0`` at first.
            bump: the part that the default number raises.
            reason: why, for the history.
            **details: the other fields of :class:`VersionRegistered`.

        Raises:
            InputError: the folder or a field is unusable.
            ConflictError: the version exists already.
        """
        check_name(name)
        if version is not None:
            version = str(Version.parse(version))
            self.refresh()
            record = self.state.models.get(name)
            if record is not None and version in record.versions:  # before anything is stored
                self.state.check(record.versions[version].registered)
        manifest = self.content.publish(folder)
        chosen = ""

        def events(state: RegistryState) -> list[Event]:
            nonlocal chosen
            chosen = version or _next_version(state, name, bump)
            return [
                VersionRegistered(
                    model=name,
                    version=chosen,
                    kind=kind,
                    manifest=manifest.digest,
                    size_bytes=manifest.size_bytes,
                    code_version=__version__,
                    **details,
                )
            ]

        self.commit(events, reason=reason)
        return self.state.models[name].versions[chosen]

    def move_alias_to(self, record: VersionRecord, alias: str, *, reason: str = "") -> None:
        """Point an alias of a version's model at it.

        Raises:
            InputError: the alias is no name.
            NotFoundError: the version is not registered.
        """
        check_name(alias)
        self.commit(
            [AliasMoved(model=record.registered.model, alias=alias, version=record.registered.version)], reason=reason
        )

    def latest(self, name: str) -> VersionRecord:
        """The highest version of a model, whatever its aliases say.

        Raises:
            NotFoundError: there is no such model.
        """
        self.resolve(ModelRef(name))
        return self.state.models[name].latest

    def resolve(self, ref: ModelRef | str) -> VersionRecord:
        """The version a reference names, see :meth:`RegistryState.resolve`."""
        self.refresh()
        return self.state.resolve(ModelRef.parse(ref) if isinstance(ref, str) else ref)

    def pull(self, ref: ModelRef | str) -> Path:
        """The local, verified folder with the files of the version a reference names."""
        return self.content.pull(Digest(self.resolve(ref).registered.manifest))

    def _take_in(self, commit: Commit) -> None:
        self.state.apply(commit)
        self.history.append(commit)


def open_registry(home: str | None = None) -> RegistryService:
    """The registry at ``home``, by default at ``$LLAMAFARM_HOME`` or ``~/.llamafarm``."""
    return RegistryService(Location(home or os.environ.get("LLAMAFARM_HOME") or "~/.llamafarm"))


def _next_version(state: RegistryState, name: str, bump: str) -> str:
    record = state.models.get(name)
    return str(record.latest.version.bump(bump)) if record else "1.0.0"


def check_name(name: str) -> None:
    """Check that a text can be a model's or an alias's name.

    Raises:
        InputError: it can't, or it is a reference.
    """
    ref = ModelRef.parse(name)
    if ref.version or ref.alias:
        raise InputError(f"{name!r} is a reference, not a name.", hint=f"Leave it at {ref.name!r}.")
