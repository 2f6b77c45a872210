"""The registry itself: takes commands, checks who asks, commits what follows, and answers from the state.

Callers that arrive while a commit is being written are committed together with the next one (group commit), so sixteen
callers pay for one write to disk, not sixteen.
"""

from __future__ import annotations

import datetime as dt
import getpass
import logging
import os
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from llamafarm_ray.errors import (
    AccessDeniedError,
    ConflictError,
    InputError,
    IntegrityError,
    PolicyError,
    StorageError,
)
from llamafarm_ray.registry import access, signing
from llamafarm_ray.registry.access import Action
from llamafarm_ray.registry.api import Outcome, RegistryApi
from llamafarm_ray.registry.commands import Command, Context, Sign
from llamafarm_ray.registry.events import Event, Refused
from llamafarm_ray.registry.log import GENESIS, Change, Commit, CommitLog, Head, LostRaceError
from llamafarm_ray.registry.snapshots import Snapshot, Snapshots
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.storage import ContentStore, Location
from llamafarm_ray.types import Digest

__all__ = ["Identity", "RegistryService", "open_registry", "registry_home"]

logger = logging.getLogger(__name__)

_MAX_RACES = 200
_BACK_OFF_S = 0.01
_MAX_CHANGES_A_COMMIT = 256
_COMMITS_A_SNAPSHOT = 1000
_RECENT_COMMITS = 2048
_UNKNOWN = "unknown"
_SAME_REFUSAL_S = 60.0
_MAX_REFUSALS = 600
"""Refused reads recorded a minute: who knocks all day shall not fill the disk."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who says they are asking.

    Attributes:
        user: the operating system's user. It counts while there are no principals.
        token: proves which principal it is.
    """

    user: str
    token: str | None = None

    @classmethod
    def from_environment(cls) -> Identity:
        """``$LLAMAFARM_TOKEN`` and ``$LLAMAFARM_PRINCIPAL``, or the operating system's user."""
        user = os.environ.get("LLAMAFARM_PRINCIPAL") or getpass.getuser()
        return cls(user, os.environ.get("LLAMAFARM_TOKEN") or None)


class _Waiting:
    """A caller whose command is to be committed."""

    def __init__(self, command: Command, identity: Identity, reason: str, key: str | None) -> None:
        self.command = command
        self.identity = identity
        self.reason = reason
        self.key = key or uuid.uuid4().hex
        self.keeps_key = key is not None
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self.called = threading.Event()
        """Set when it is done, or when it is this caller's turn to commit what waits."""

    @property
    def is_done(self) -> bool:
        return self.outcome is not None or self.error is not None

    def result(self) -> Outcome:
        if self.error is not None:
            raise self.error
        if self.outcome is None:
            raise AssertionError("the command was not committed, and no error said why")
        return self.outcome


class RegistryService(RegistryApi):
    """A registry at a home. Safe to use from several threads; several processes and clusters may share a home.

    Args:
        home: where it lasts.
        principal: the user that changes are recorded for while there are no principals; by default that of the
            operating system.
        token: proves which principal it is; by default ``$LLAMAFARM_TOKEN``.
        cache: node-local folder for pulled versions.
        commits_a_snapshot: how many commits may pass without one.

    Raises:
        IntegrityError: a commit is damaged or missing; it is named.
        StorageError: the home can't be read.
    """

    def __init__(
        self,
        home: Location,
        *,
        principal: str | None = None,
        token: str | None = None,
        cache: Any = None,
        commits_a_snapshot: int = _COMMITS_A_SNAPSHOT,
    ) -> None:
        default = Identity.from_environment()
        self._home = home
        self._identity = Identity(principal or default.user, token or default.token)
        self._log = CommitLog(home)
        self._snapshots = Snapshots(home)
        self._commits_a_snapshot = commits_a_snapshot
        self._state = RegistryState()
        self._head = GENESIS
        self._snapshot_sequence = 0
        self._snapshooter: threading.Thread | None = None
        self._refused: dict[tuple[str, Action, str, str], float] = {}
        self._write_lock = threading.RLock()
        self._queue_lock = threading.Lock()
        self._queue: list[_Waiting] = []
        self._is_led = False
        self._listeners: list[Callable[[], None]] = []
        self.recent: deque[Commit] = deque(maxlen=_RECENT_COMMITS)
        self._content = ContentStore(home, cache, generation=self._generation)
        self._open()

    @property
    def home(self) -> Location:
        """Where it lasts."""
        return self._home

    @property
    def content(self) -> ContentStore:
        """The stored files, and this node's cache of them."""
        return self._content

    @property
    def state(self) -> RegistryState:
        """The newest state that was read."""
        return self._state

    @property
    def head(self) -> Head:
        """The last commit that was read. Kept elsewhere, it proves later that nothing was cut off."""
        return self._head

    def refresh(self) -> RegistryState:
        """The state with everything in it that was committed up to now."""
        if self._log.has_next(self._head):
            with self._write_lock:
                self._read_new()
        return self._state

    def submit(
        self,
        command: Command,
        *,
        reason: str = "",
        idempotency_key: str | None = None,
        identity: Identity | None = None,
    ) -> Outcome:
        """Have a command done, see :meth:`RegistryApi.submit`.

        Args:
            command: what.
            reason: why, for the history.
            idempotency_key: what makes a repeated call the same call.
            identity: who asks; by default whoever opened this registry.
        """
        who = identity or self._identity
        if isinstance(command, Sign):
            self.allow(command.action, command.namespace, target=command.target, identity=who)
            signing.check(self.refresh(), self.content, command)
        waiting = _Waiting(command, who, reason, idempotency_key)
        with self._queue_lock:
            self._queue.append(waiting)
            leads, self._is_led = not self._is_led, True
        try:
            if not leads:
                waiting.called.wait()
            if not waiting.is_done:
                self._lead()
        except BaseException:  # Ctrl-C, at any point
            self._withdraw(waiting, leads=leads)
            raise
        return waiting.result()

    def allow(self, action: Action, namespace: str, *, target: str = "", identity: Identity | None = None) -> None:
        """Check that whoever asks may do something that is no command, such as reading.

        Raises:
            AccessDeniedError: they may not. The refusal is recorded.
        """
        state = self.refresh()
        if not state.principals:
            return
        who = identity or self._identity
        try:
            self._authorize(state, who, action, {namespace})
        except AccessDeniedError as error:
            self.record_refusal(action, target or namespace, error, identity=who)
            raise

    def record_refusal(
        self,
        action: Action,
        target: str,
        error: AccessDeniedError | PolicyError,
        *,
        identity: Identity | None = None,
    ) -> None:
        """Put a refusal into the audit trail. The same one again within a minute is left out."""
        with self._write_lock:
            self._record_refusal(identity or self._identity, action, target, error)

    def may(self, action: Action, namespace: str, *, identity: Identity | None = None) -> bool:
        """Whether whoever asks may do something. Records nothing."""
        try:
            self._authorize(self._state, identity or self._identity, action, {namespace})
        except AccessDeniedError:
            return False
        return True

    def close(self) -> None:
        """Wait for a snapshot that is being written. The registry can be used on."""
        if self._snapshooter is not None:
            self._snapshooter.join()

    def on_commit(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called, on whichever thread, after every commit that this object takes in."""
        self._listeners.append(listener)

    def _open(self) -> None:
        snapshot = self._snapshots.newest()
        if snapshot is not None:
            self._stand_at(snapshot)
            try:
                self._read_new()
            except IntegrityError as error:  # the snapshot may be what is wrong: the whole log tells
                logger.warning("Snapshot %d does not fit the log (%s); reading it all.", snapshot.head.sequence, error)
                self._stand_at(Snapshot(RegistryState(), GENESIS))
        snapshots = self._snapshots.sequences()
        self._read_new()
        self._log.check_complete(self._head)
        if snapshots and snapshots[-1] > self._head.sequence:
            raise IntegrityError(
                f"The log at {self.home.uri} ends with commit {self._head.sequence}, and there is a snapshot of commit "
                f"{snapshots[-1]}: its end was cut off.",
                hint="Restore the commits from a backup; to go on without them, delete the later snapshots.",
            )

    def _stand_at(self, snapshot: Snapshot) -> None:
        self._state, self._head = snapshot.state, snapshot.head
        self._snapshot_sequence = snapshot.head.sequence
        self.recent.clear()

    def _read_new(self) -> None:
        for commit, head in self._log.read_after(self._head):
            if head.sequence == self._head.sequence + 1:  # a listener may have read on
                self._take_in(commit, head)

    def _take_in(self, commit: Commit, head: Head) -> None:
        self._state, self._head = self._state.after(commit), head
        self.recent.append(commit)
        for listener in self._listeners:
            try:
                listener()
            except Exception:  # what is committed is committed
                logger.exception("A listener failed on commit %d.", commit.sequence)

    def _withdraw(self, waiting: _Waiting, *, leads: bool) -> None:
        """Take a caller who went away out of the queue; was it their turn, it is the next one's."""
        with self._queue_lock:
            if waiting not in self._queue:
                return
            self._queue.remove(waiting)
            following = None
            if leads or waiting.called.is_set():
                self._is_led = bool(self._queue)
                following = self._queue[0] if self._queue else None
        if following is not None:
            following.called.set()

    def _lead(self) -> None:
        """Commit what waits, the caller's own command first in it; then it is the turn of who came meanwhile."""
        batch = self._next_batch()
        try:
            with self._write_lock:
                self._commit(batch)
        except Exception as error:  # noqa: BLE001  (whoever waits must be told, whatever it was)
            for waiting in batch:
                waiting.error = waiting.error or error
        except BaseException as error:  # Ctrl-C ends this caller; the others hear of it
            for waiting in batch:
                waiting.error = waiting.error or StorageError(f"The commit was cut off: {error!r}.", hint="Try again.")
            raise
        finally:
            with self._queue_lock:
                self._is_led = bool(self._queue)
                following = self._queue[0] if self._queue else None
            for waiting in batch[1:]:
                waiting.called.set()
            if following is not None:
                following.called.set()

    def _next_batch(self) -> list[_Waiting]:
        """Who waits, in order; of several with one idempotency key the first: the others learn what became of it."""
        with self._queue_lock:
            by_key: dict[str, _Waiting] = {}
            for waiting in self._queue[:_MAX_CHANGES_A_COMMIT]:
                by_key.setdefault(waiting.key, waiting)
            batch = list(by_key.values())
            self._queue = [waiting for waiting in self._queue if waiting is not by_key.get(waiting.key)]
        return batch

    def _commit(self, batch: list[_Waiting]) -> None:
        for race in range(_MAX_RACES):
            self._read_new()
            changes = self._decide(batch)
            if not changes:
                return
            try:
                commit, head = self._log.append(self._head, [change for _, change in changes])
            except LostRaceError:
                time.sleep(random.uniform(0, _BACK_OFF_S * min(race, 10)))
                continue
            self._take_in(commit, head)
            for waiting, change in changes:
                if waiting.error is None:
                    waiting.outcome = Outcome(commit.sequence, change.events)
            self._snapshot_if_due()
            return
        raise ConflictError(f"{_MAX_RACES} other writers were faster at {self.home.uri}.", hint="Try again.")

    def _decide(self, batch: list[_Waiting]) -> list[tuple[_Waiting, Change]]:
        """What to commit for each caller, from the newest state and what is decided for those before them."""
        state, changes = self._state, []
        for waiting in batch:
            waiting.error = waiting.outcome = None
            now = self._now(state)
            try:
                change = self._decide_one(waiting, state, now)
                following = state.after_change(change, state.sequence + 1) if change is not None else state
            except (AccessDeniedError, PolicyError) as error:
                waiting.error = error
                command = waiting.command
                asked = (command.action, command.target, getattr(command, "alias", ""))
                change = self._refusal(state, waiting.identity, asked, error)
                following = state
            except Exception as error:  # noqa: BLE001  (whatever is wrong with one command, the others go on)
                waiting.error = error
                continue
            if change is not None:
                changes.append((waiting, change))
                state = following
        return changes

    def _decide_one(self, waiting: _Waiting, state: RegistryState, now: dt.datetime) -> Change | None:
        command = waiting.command
        principal = self._authorize(state, waiting.identity, command.action, command.namespaces)
        if waiting.key in state.commits_by_key:
            waiting.outcome = self._outcome_of(waiting, principal, state.commits_by_key[waiting.key])
            return None
        context = Context(principal, now)
        events: list[Event] = []
        for event in command.decide(state, context):
            state.check(event)
            events.append(event)
        if not events and not waiting.keeps_key:
            waiting.outcome = Outcome(state.sequence, ())
            return None
        change = {
            "time": now,
            "principal": principal,
            "request": command.request,
            "reason": waiting.reason,
            "idempotency_key": waiting.key,
            "events": tuple(events),
        }
        try:  # what is taken in is what will be read back, or nothing
            return Change.model_validate_json(Change.model_validate(change).model_dump_json())
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{place} is unusable: {first['msg']} (it is {first['input']!r:.120}).") from None
        except (PydanticSerializationError, UnicodeError) as error:
            raise InputError(f"{command.target[:120]!a}: a text in it is no Unicode: {error}.") from None

    def _outcome_of(self, waiting: _Waiting, principal: str, sequence: int) -> Outcome:
        """What the command led to when it was committed."""
        commit = next((commit for commit in self.recent if commit.sequence == sequence), None)
        commit = commit or self._log.read(sequence)
        change = next(change for change in commit.changes if change.idempotency_key == waiting.key)
        if (principal, waiting.command.request) != (change.principal, change.request):
            raise ConflictError(
                f"The idempotency key {waiting.key[:120]!r} was used for something else, in commit {sequence}.",
                hint="Give each command a key of its own.",
            )
        return Outcome(sequence, change.events)

    @staticmethod
    def _authorize(state: RegistryState, who: Identity, action: Action, namespaces: set[str]) -> str:
        """The name of the principal, if it may in all these namespaces."""
        if not state.principals:
            return who.user
        if who.token is None:
            raise AccessDeniedError(
                "This registry asks for a token, and none was given.", hint="Set LLAMAFARM_TOKEN to yours."
            )
        digest = access.token_digest(who.token)
        principal = next((known for known in state.principals.values() if known.token_digest == digest), None)
        if principal is None or principal.revoked:
            raise AccessDeniedError("The token is not (or no longer) known here.", hint="Ask an admin for a new one.")
        if not principal.is_valid(dt.datetime.now(dt.UTC)):  # by this clock, not by the newest commit's
            raise AccessDeniedError(
                f"The token of {principal.name!r} expired on {principal.expires:%Y-%m-%d %H:%M} UTC.",
                hint="Ask an admin for a new one.",
            )
        denied = sorted(name for name in namespaces if not access.allows(principal.grants, action, name))
        if denied:
            where = {"": "models without a namespace", "*": "every namespace"}.get(
                denied[0], f"namespace {denied[0]!r}"
            )
            raise AccessDeniedError(
                f"{principal.name!r} may not {action}: that takes the role {action.least_role} for {where}.",
                hint="Ask an admin for it.",
            )
        return principal.name

    def _refusal(
        self,
        state: RegistryState,
        who: Identity,
        asked: tuple[Action, str, str],
        error: AccessDeniedError | PolicyError,
    ) -> Change:
        action, target, alias = asked
        digest = access.token_digest(who.token) if who.token else None
        named = [known.name for known in state.principals.values() if known.token_digest == digest]
        principal = named[0] if named else who.user if not state.principals else _UNKNOWN
        rule = ", ".join(error.rules) if isinstance(error, PolicyError) else str(action.least_role)
        refused = Refused(action=action, target=target[:512], rule=rule, message=error.message[:2048], alias=alias)
        return Change(time=self._now(state), principal=principal, idempotency_key=uuid.uuid4().hex, events=(refused,))

    def _record_refusal(
        self, who: Identity, action: Action, target: str, error: AccessDeniedError | PolicyError
    ) -> None:
        digest = access.token_digest(who.token) if who.token else who.user
        refusal = (digest, action, target, error.message)
        now = time.monotonic()
        self._refused = {known: at for known, at in self._refused.items() if now - at < _SAME_REFUSAL_S}
        if refusal in self._refused or len(self._refused) >= _MAX_REFUSALS:
            return
        self._refused[refusal] = now
        for _ in range(_MAX_RACES):
            self._read_new()
            try:
                self._take_in(
                    *self._log.append(self._head, [self._refusal(self._state, who, (action, target, ""), error)])
                )
            except LostRaceError:
                continue
            except StorageError as problem:  # a viewer may have no way to write: they are refused all the same
                logger.warning("A refusal could not be recorded: %s", problem)
            return

    def _now(self, state: RegistryState) -> dt.datetime:
        """The time, never before the last commit's: writers' clocks differ, and history must not run backwards."""
        return max(dt.datetime.now(dt.UTC), state.time)

    def _generation(self, digest: Digest) -> int:
        return self._state.generations.get(digest, 0)

    def _snapshot_if_due(self) -> None:
        if self._head.sequence - self._snapshot_sequence < self._commits_a_snapshot:
            return
        self._snapshot_sequence = self._head.sequence
        self.close()
        snapshot = Snapshot(self._state, self._head)
        thread = threading.Thread(target=self._write_snapshot, args=(snapshot,), name="registry-snapshot")
        try:
            thread.start()
        except RuntimeError as error:  # no more threads: the next one may succeed
            logger.warning("The snapshot of commit %d could not be started: %s", snapshot.head.sequence, error)
            return
        self._snapshooter = thread

    def _write_snapshot(self, snapshot: Snapshot) -> None:
        try:
            self._snapshots.write(snapshot)
        except StorageError as error:  # the log is enough; the next one may succeed
            logger.warning("The snapshot of commit %d could not be written: %s", snapshot.head.sequence, error)


def open_registry(home: str | None = None, *, token: str | None = None) -> RegistryService:
    """The registry at ``home``, by default at ``$LLAMAFARM_HOME`` or ``~/.llamafarm``."""
    return RegistryService(registry_home(home), token=token)


def registry_home(home: str | None = None) -> Location:
    """Where everything lasts: ``home``, else ``$LLAMAFARM_HOME``, else ``~/.llamafarm``."""
    return Location(home or os.environ.get("LLAMAFARM_HOME") or "~/.llamafarm")
