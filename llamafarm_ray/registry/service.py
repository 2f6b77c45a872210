"""The registry's service: it authorizes commands, commits their events, and answers from the state."""

from __future__ import annotations

import datetime as dt
import logging
import os
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

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
from llamafarm_ray.registry import signing
from llamafarm_ray.registry.api import Outcome, RegistryApi
from llamafarm_ray.registry.commands import Command, ContentMovedError, Context, Sign
from llamafarm_ray.registry.events import Event, Refused
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.group_commit import Line, Waiting
from llamafarm_ray.registry.history.snapshot_writer import SnapshotWriter
from llamafarm_ray.registry.history.snapshots import Snapshot, Snapshots
from llamafarm_ray.registry.identity import Identity, authorize, name_of
from llamafarm_ray.registry.log import GENESIS, Change, Commit, CommitLog, Head, LostRaceError
from llamafarm_ray.registry.preconditions import MAX_CLOCK_DIFFERENCE, Preconditions, utc_now
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.registry.stored import StoredManifests, names_stored
from llamafarm_ray.storage import Location

__all__ = ["RegistryService", "open_registry", "registry_home"]

logger = logging.getLogger(__name__)

_MAX_RACES = 200
_BACK_OFF_S = 0.01
_COMMITS_A_SNAPSHOT = 1000
_RECENT_COMMITS = 2048
_SAME_REFUSAL_S = 60.0
_MAX_REFUSALS = 600
"""Refused reads recorded a minute: who knocks all day shall not fill the disk."""


class RegistryService(RegistryApi):
    """A registry at a home. Safe to use from several threads; several processes and clusters may share a home.

    Args:
        principal: the user that changes are recorded for while there are no principals; by default that of the
            operating system.
        token: proves which principal it is; by default ``$LLAMAFARM_TOKEN``.
        cache: node-local folder for pulled versions.
        commits_a_snapshot: number of commits between two snapshots.
        clock: the clock that commits are dated by; it must agree with the store's.

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
        cache: Path | None = None,
        commits_a_snapshot: int = _COMMITS_A_SNAPSHOT,
        clock: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        super().__init__(home, user=principal, token=token, cache=cache)
        self._log = CommitLog(home)
        self._clock = clock
        self._preconditions = Preconditions(home, clock)
        self._snapshots = SnapshotWriter(Snapshots(home), commits_a_snapshot)
        self._head = GENESIS
        self._refused: dict[tuple[str, Action, str, str], float] = {}
        self._write_lock = threading.RLock()
        self._line = Line(self._commit)
        self._stored = StoredManifests()
        self._listeners: list[Callable[[], None]] = []
        self.recent: deque[Commit] = deque(maxlen=_RECENT_COMMITS)
        self._open()

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
        """Run a command, see :meth:`RegistryApi.submit`.

        Args:
            reason: reason, for the history.
            idempotency_key: key that makes a repeated call the same call.
            identity: caller; by default the one who opened this registry.
        """
        who = identity or self._identity
        checked = self._checked(command, who, idempotency_key)
        try:
            return self._line.run(Waiting(checked, who, reason, idempotency_key))
        except ContentMovedError:
            if not names_stored(command) or command.stored:
                raise  # who stored the files stores them again
            raise ConflictError(
                f"The files of {command.target} were given up as garbage meanwhile.", hint="Store them again."
            ) from None

    def allow(self, action: Action, namespace: str, *, target: str = "", identity: Identity | None = None) -> None:
        """Check that the caller may do an action that is no command, such as reading.

        Raises:
            AccessDeniedError: they may not. The refusal is recorded.
        """
        state = self.refresh()
        if not state.principals:
            return
        who = identity or self._identity
        try:
            authorize(state, who, action, {namespace})
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
        """Return True if the caller may do an action. Records nothing."""
        try:
            authorize(self._state, identity or self._identity, action, {namespace})
        except AccessDeniedError:
            return False
        return True

    def close(self) -> None:
        """Wait for a snapshot that is being written. The registry can be used on."""
        self._snapshots.join()

    def on_commit(self, listener: Callable[[], None]) -> None:
        """Call ``listener``, on any thread, after every commit that this object takes in."""
        self._listeners.append(listener)

    def _open(self) -> None:
        snapshot = self._snapshots.store.newest()
        if snapshot is not None:
            self._stand_at(snapshot)
            try:
                self._read_new()
            except IntegrityError as error:  # the snapshot may be what is wrong: the whole log tells
                logger.warning("Snapshot %d does not fit the log (%s); reading it all.", snapshot.head.sequence, error)
                self._stand_at(Snapshot(RegistryState(), GENESIS))
        snapshots = self._snapshots.store.sequences()
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
        self._snapshots.last_sequence = snapshot.head.sequence
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

    def _checked(self, command: Command, who: Identity, idempotency_key: str | None) -> Command:
        """The command, once the stored files that it is about were looked at."""
        if isinstance(command, Sign):
            self.allow(command.action, command.namespace, target=command.target, identity=who)
            signing.check(self.refresh(), self.content, command)
        if not names_stored(command):
            return command
        if self._state.principals:  # strangers need not learn what is stored
            self.allow(command.action, command.namespace, target=command.target, identity=who)
        state = self._state  # looking for news costs every caller, and mostly there is none that matters
        for is_new in (False, True):
            if idempotency_key in state.commits_by_key:  # done before: its files may be gone by now
                return command
            try:
                return self._stored.look(state, self.content, command)
            except (InputError, ContentMovedError):
                if is_new:
                    raise
                state = self.refresh()
        return command

    def _commit(self, batch: Sequence[Waiting]) -> None:
        with self._write_lock:
            self._commit_alone(batch)

    def _commit_alone(self, batch: Sequence[Waiting]) -> None:
        for race in range(_MAX_RACES):
            self._read_new()
            changes = self._decide(batch)
            if not changes:
                return
            self._preconditions.check()
            try:
                commit, head = self._log.append(self._head, [change for _, change in changes])
            except LostRaceError:
                time.sleep(random.uniform(0, _BACK_OFF_S * min(race, 10)))
                continue
            self._take_in(commit, head)
            for waiting, change in changes:
                if waiting.error is None:
                    waiting.outcome = Outcome(commit.sequence, change.events)
            self._snapshots.write_if_due(self._state, self._head)
            return
        raise ConflictError(f"{_MAX_RACES} other writers were faster at {self.home.uri}.", hint="Try again.")

    def _decide(self, batch: Sequence[Waiting]) -> list[tuple[Waiting, Change]]:
        """Return the change to commit for each caller, by the newest state and the changes decided before it."""
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

    def _decide_one(self, waiting: Waiting, state: RegistryState, now: dt.datetime) -> Change | None:
        command = waiting.command
        principal = authorize(state, waiting.identity, command.action, command.namespaces)
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

    def _outcome_of(self, waiting: Waiting, principal: str, sequence: int) -> Outcome:
        """Return the command's outcome when it was committed."""
        commit = next((commit for commit in self.recent if commit.sequence == sequence), None)
        commit = commit or self._log.read(sequence)
        change = next(change for change in commit.changes if change.idempotency_key == waiting.key)
        if (principal, waiting.command.request) != (change.principal, change.request):
            raise ConflictError(
                f"The idempotency key {waiting.key[:120]!r} was used for something else, in commit {sequence}.",
                hint="Give each command a key of its own.",
            )
        return Outcome(sequence, change.events)

    def _refusal(
        self,
        state: RegistryState,
        who: Identity,
        asked: tuple[Action, str, str],
        error: AccessDeniedError | PolicyError,
    ) -> Change:
        action, target, alias = asked
        rule = ", ".join(error.rules) if isinstance(error, PolicyError) else str(action.least_role)
        refused = Refused(action=action, target=target[:512], rule=rule, message=error.message[:2048], alias=alias)
        return Change(
            time=self._now(state),
            principal=name_of(state, who),
            idempotency_key=uuid.uuid4().hex,
            events=(refused,),
        )

    def _record_refusal(
        self, who: Identity, action: Action, target: str, error: AccessDeniedError | PolicyError
    ) -> None:
        refusal = (who.digest, action, target, error.message)
        now = time.monotonic()
        self._refused = {known: at for known, at in self._refused.items() if now - at < _SAME_REFUSAL_S}
        if refusal in self._refused or len(self._refused) >= _MAX_REFUSALS:
            return
        self._refused[refusal] = now
        for _ in range(_MAX_RACES):
            self._read_new()
            change = self._refusal(self._state, who, (action, target, ""), error)
            if self._repeats(change):  # of another process: each command is one
                return
            try:
                self._preconditions.check()
                self._take_in(*self._log.append(self._head, [change]))
            except LostRaceError:
                continue
            except StorageError as problem:  # a viewer may have no way to write: they are refused all the same
                logger.warning("A refusal could not be recorded: %s", problem)
            return

    def _repeats(self, refusal: Change) -> bool:
        """Return True if the same refusal is in the log already, and not older than a minute."""
        return any(
            known.principal == refusal.principal and known.events == refusal.events
            for commit in self.recent
            for known in commit.changes
            if (refusal.time - known.time).total_seconds() < _SAME_REFUSAL_S
        )

    def _now(self, state: RegistryState) -> dt.datetime:
        """Return the time, not before the last commit's: writers' clocks differ, and history does not run backwards.

        A commit that is dated further ahead than clocks may differ was dated wrongly; what follows it is dated right.
        """
        now = self._clock()
        return state.time if dt.timedelta() < state.time - now <= MAX_CLOCK_DIFFERENCE else now


def open_registry(home: str | None = None, *, token: str | None = None) -> RegistryService:
    """The registry at ``home``, by default at ``$LLAMAFARM_HOME`` or ``~/.llamafarm``."""
    return RegistryService(registry_home(home), token=token)


def registry_home(home: str | None = None) -> Location:
    """Return the home: ``home``, else ``$LLAMAFARM_HOME``, else ``~/.llamafarm``."""
    return Location(home or os.environ.get("LLAMAFARM_HOME") or "~/.llamafarm")
