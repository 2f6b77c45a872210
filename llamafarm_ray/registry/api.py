"""The calls of a registry: the same in this process (:class:`RegistryService`) and through the cluster's actor."""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray import __version__
from llamafarm_ray.errors import AccessDeniedError, ConflictError, PolicyError
from llamafarm_ray.registry import signing
from llamafarm_ray.registry.commands import (
    AddPrincipal,
    Approve,
    Bump,
    Command,
    ContentMovedError,
    Deprecate,
    MoveAlias,
    RecordMetrics,
    Register,
    RemoveAlias,
    Retire,
    Rollback,
    Sign,
    Tag,
)
from llamafarm_ray.registry.events import AliasMoved, Event, VersionRegistered
from llamafarm_ray.registry.governance.access import Action, Role, new_token, token_digest
from llamafarm_ray.registry.history.snapshots import Snapshots
from llamafarm_ray.registry.identity import Identity
from llamafarm_ray.registry.log import GENESIS, Commit, CommitLog
from llamafarm_ray.registry.references import (
    check_alias,
    check_alive,
    check_name,
    check_new_alias,
    parse_reference,
    record_ref,
)
from llamafarm_ray.registry.state import RegistryState, VersionRecord
from llamafarm_ray.storage import ContentStore, Location
from llamafarm_ray.types import Digest, ModelKind, ModelRef, Version

__all__ = ["Outcome", "RegistryApi"]

_MAX_PUBLISHES = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a command.

    Attributes:
        sequence: the commit that holds it; where nothing had to change, the newest one.
        events: its events; none where nothing had to change.
    """

    sequence: int
    events: tuple[Event, ...]


class RegistryApi(ABC):
    """Interface of a registry.

    Args:
        user: caller while there are no principals; by default the operating system's user.
        token: proves which principal it is; by default ``$LLAMAFARM_TOKEN``.
        cache: node-local folder for pulled versions.
    """

    def __init__(
        self, home: Location, *, user: str | None = None, token: str | None = None, cache: Path | None = None
    ) -> None:
        default = Identity.from_environment()
        self._home = home
        self._identity = Identity(user or default.user, token or default.token)
        self._state = RegistryState()
        self._content = ContentStore(
            home, cache, generation=lambda digest: self._state.generations.get(digest, 0), kept=self.referenced
        )

    @property
    def home(self) -> Location:
        """Home of the registry."""
        return self._home

    @property
    def content(self) -> ContentStore:
        """The stored files, and this node's cache of them."""
        return self._content

    @property
    def state(self) -> RegistryState:
        """The newest state that was read."""
        return self._state

    def referenced(self) -> frozenset[Digest]:
        """The bases of versions that are not retired, as far as the home has no copy of their files."""
        living = (one for one in self._state.versions() if one.retired is None and one.registered.base_digest)
        bases = {Digest(one.registered.base_digest or "") for one in living}
        return frozenset(base for base in bases if next(self._state.with_content(base), None) is None)

    @abstractmethod
    def refresh(self) -> RegistryState:
        """The state with everything in it that was committed up to now."""

    @abstractmethod
    def submit(self, command: Command, *, reason: str = "", idempotency_key: str | None = None) -> Outcome:
        """Run a command: once it returns, its events are on disk and in every later state.

        Raises:
            AccessDeniedError: the principal lacks the right. The refusal is recorded.
            InputError: it holds a value that can't be kept, or would register files that are not stored.
            PolicyError: a rule forbids it. The refusal is recorded.
            ConflictError: the state does not allow it, or too many writers race.
            NotFoundError: it is about what does not exist.
            StorageError: the home can't be written. Whether it was committed is not known: ask again with the same
                ``idempotency_key``, which does it once.
        """

    @abstractmethod
    def allow(self, action: Action, namespace: str, *, target: str = "") -> None:
        """Check that the caller may do an action that is no command, such as reading."""

    @abstractmethod
    def may(self, action: Action, namespace: str) -> bool:
        """Return True if the caller may do an action. Records nothing."""

    @abstractmethod
    def record_refusal(self, action: Action, target: str, error: AccessDeniedError | PolicyError) -> None:
        """Put a refusal into the audit trail."""

    def register(
        self,
        folder: Path,
        *,
        name: str,
        kind: ModelKind,
        version: str | None = None,
        bump: Bump = "minor",
        reason: str = "",
        idempotency_key: str | None = None,
        **details: object,
    ) -> VersionRecord:
        """Publish a folder's files and register them as a version.

        Args:
            folder: the model's or adapter's files.
            name: the model's name, ``name`` or ``namespace/name``.
            version: its number; by default the next after the highest (``bump`` says which part), ``1.0.0`` at first.
            bump: the part that the default number raises.
            reason: reason, for the history.
            idempotency_key: key that makes a repeated call the same call.
            **details: the other fields of :class:`VersionRegistered`.

        Raises:
            InputError: the folder or a field is unusable, or a weight of an adapter is NaN or infinite.
            ConflictError: the version exists already.
        """
        check_name(name)
        number = str(Version.parse(version)) if version is not None else None
        state = self.refresh()
        self.allow(Action.REGISTER, ModelRef(name).namespace, target=name)  # before anything is stored
        is_repeated = idempotency_key in state.commits_by_key
        if not is_repeated and number and name in state.models and number in state.models[name].versions:
            state.check(state.models[name].versions[number].registered)
        for _ in range(_MAX_PUBLISHES):
            generations = self.refresh().generations
            manifest = self.content.publish(folder, is_adapter=kind is ModelKind.ADAPTER)
            command = Register(
                model=name,
                kind=kind,
                manifest=manifest.digest,
                size_bytes=manifest.size_bytes,
                version=number,
                bump=bump,
                details={"code_version": __version__, **details},
                stored={
                    digest: generations.get(digest, 0)
                    for digest in (manifest.digest, *self.content.blobs.stored_as(manifest))
                },
            )
            try:
                outcome = self.submit(command, reason=reason, idempotency_key=idempotency_key)
            except ContentMovedError:  # a collector condemned some of it meanwhile: store it anew
                continue
            event = next(event for event in outcome.events if isinstance(event, VersionRegistered))
            return self.refresh().version(event.model, event.version)
        raise ConflictError("Garbage collection kept condemning what was being published.", hint="Try again.")

    def promote(self, reference: str | ModelRef, alias: str, *, reason: str = "") -> VersionRecord:
        """Point an alias (``production``) at a version, if the alias's policy allows it.

        Raises:
            InputError: the alias is no name, or would be taken for something else.
            PolicyError: rules are not fulfilled; the message names them and the values.
        """
        record = self.resolve(reference)
        check_new_alias(alias, self.state, record.registered.model)
        self.submit(MoveAlias(record_ref(record), alias), reason=reason)
        return self.state.resolve(record_ref(record))

    def unalias(self, name: str, alias: str, *, reason: str = "") -> None:
        """Remove an alias; its history stays.

        Raises:
            NotFoundError: there is no such alias.
        """
        self.submit(RemoveAlias(name, alias), reason=reason)

    def rollback(self, name: str, alias: str, *, version: str | None = None, reason: str = "") -> VersionRecord:
        """Point an alias at its earlier target, or at a named version.

        Raises:
            ConflictError: it never pointed at another version.
        """
        number = str(Version.parse(version)) if version is not None else None
        outcome = self.submit(Rollback(name, alias, number), reason=reason)
        moved = next(event for event in outcome.events if isinstance(event, AliasMoved))
        return self.refresh().version(name, moved.version)

    def approve(self, reference: str | ModelRef, alias: str, *, reason: str = "") -> VersionRecord:
        """Agree that an alias may point at a version."""
        check_alias(alias)
        record = self.resolve(reference)
        self.submit(Approve(record_ref(record), alias), reason=reason)
        return self.state.resolve(record_ref(record))

    def record_metrics(self, reference: str | ModelRef, metrics: Mapping[str, object], *, reason: str = "") -> None:
        """Add evaluation results to a version; they replace earlier ones of the same name."""
        self.submit(RecordMetrics(record_ref(self.resolve(reference)), metrics), reason=reason)

    def tag(
        self, reference: str | ModelRef, *, add: tuple[str, ...] = (), remove: tuple[str, ...] = ()
    ) -> VersionRecord:
        """Add and remove tags of a version."""
        ref = record_ref(self.resolve(reference))
        self.submit(Tag(ref, add, remove))
        return self.state.resolve(ref)

    def deprecate(self, reference: str | ModelRef, message: str = "") -> VersionRecord:
        """Tell people to use another version."""
        ref = record_ref(self.resolve(reference))
        self.submit(Deprecate(ref, message), reason=message)
        return self.state.resolve(ref)

    def retire(self, reference: str | ModelRef, message: str = "") -> VersionRecord:
        """End a version's life.

        Raises:
            ConflictError: an alias points at it, or a deployment serves it.
        """
        ref = parse_reference(reference)
        self.submit(Retire(ref, message), reason=message)
        return self.state.resolve(ref)

    def sign(self, reference: str | ModelRef, private_key: Path, *, password: str | None = None) -> VersionRecord:
        """Sign a version's files.

        Args:
            private_key: file with an elliptic curve key, PEM.

        Raises:
            InputError: the file holds no such key.
            UnsupportedError: model-signing is not installed.
        """
        record = self.resolve(reference)
        check_alive(record)
        folder = self.content.pull(
            Digest(record.registered.manifest)
        )  # not `pull`: a policy may ask for this signature
        signature = signing.sign(folder, private_key, password)
        for _ in range(_MAX_PUBLISHES):
            generations = self.refresh().generations
            digest = self.content.publish_bytes(signature.bundle)
            command = Sign(
                record_ref(record),
                digest,
                signature.public_key,
                signing.key_digest(signature.public_key),
                stored={digest: generations.get(digest, 0)},
            )
            try:
                self.submit(command)
            except ContentMovedError:
                continue
            return self.state.resolve(record_ref(record))
        raise ConflictError("Garbage collection kept condemning the signature.", hint="Try again.")

    def add_principal(
        self, name: str, grants: Mapping[str, Role], *, expires: dt.datetime | None = None, reason: str = ""
    ) -> str:
        """Add a principal with a role.

        Args:
            grants: role by namespace; ``*`` is every namespace, the empty text the one without a name.
            expires: time until which the token is valid.
            reason: reason, for the history.

        Returns:
            the token. It is not kept: show it once.
        """
        check_alias(name)
        token = new_token()
        self.submit(AddPrincipal(name, token_digest(token), dict(grants), expires), reason=reason)
        return token

    def resolve(self, reference: str | ModelRef, *, at: dt.datetime | None = None) -> VersionRecord:
        """The version a reference names, see :meth:`RegistryState.resolve`.

        Args:
            reference: ``name``, ``name:1.2.0`` or ``name@production``.
            at: as of when; now by default.

        Raises:
            NotFoundError: there is no such version.
            PolicyError: it is a bare name, ``production`` has rules, and is not set.
        """
        ref = parse_reference(reference)
        state = self.refresh() if at is None else self.state_at(at)
        self.allow(Action.READ, ref.namespace, target=str(ref))
        return state.resolve(ref)

    def latest(self, name: str) -> VersionRecord:
        """Return the highest version of a model, whatever its aliases say.

        Raises:
            NotFoundError: there is no such model.
        """
        check_name(name)
        state = self.refresh()
        self.allow(Action.READ, ModelRef(name).namespace, target=name)
        return state.model(name).latest

    def pull(self, reference: str | ModelRef) -> Path:
        """The local, verified folder with the files of the version a reference names.

        Raises:
            ConflictError: the version is retired.
            PolicyError: the policy of an alias that points at it asks for a signature, and none is good.
            IntegrityError: its files are damaged.
        """
        record = self.resolve(reference)
        check_alive(record)

        def still_wanted() -> None:
            check_alive(self.refresh().resolve(record_ref(record)))

        folder = self.content.pull(Digest(record.registered.manifest), still_wanted=still_wanted)
        try:
            signing.check_policies(self.state, self.content, record, folder)
        except PolicyError as error:
            self.record_refusal(Action.READ, record.ref, error)
            raise
        return folder

    def state_at(self, time: dt.datetime) -> RegistryState:
        """Return the state as it was at a time: that of the last commit dated no later.

        A commit dated later that comes before it was there, too: its writer's clock was ahead.
        """
        turned_back = self.refresh().turned_back
        snapshot = Snapshots(self.home).newest(at=time)
        state, head = (snapshot.state, snapshot.head) if snapshot else (RegistryState(), GENESIS)
        found = state
        for commit, _ in CommitLog(self.home).read_after(head):
            if commit.time > time and commit.sequence >= turned_back:
                break
            state = state.after(commit)
            if commit.time <= time:
                found = state
        return found

    def commits(self) -> Iterator[Commit]:
        """All commits, oldest first, the chain checked."""
        for commit, _ in CommitLog(self.home).read_after(GENESIS):
            yield commit
