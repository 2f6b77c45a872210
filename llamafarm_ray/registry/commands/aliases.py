"""Commands about aliases: their targets, approvals and policies."""

from __future__ import annotations

from dataclasses import dataclass

from llamafarm_ray.errors import AccessDeniedError, ConflictError, PolicyError
from llamafarm_ray.registry.commands.base import Context, OfAlias, OfVersion, Unbounded, event_of
from llamafarm_ray.registry.events import AliasMoved, AliasRemoved, Event, PolicySet, PromotionApproved
from llamafarm_ray.registry.governance.access import EVERY_NAMESPACE, Action, allows
from llamafarm_ray.registry.governance.policy import Policy, license_violations, violations
from llamafarm_ray.registry.state import AliasMove, RegistryState, VersionRecord
from llamafarm_ray.types import ModelRef

__all__ = ["Approve", "MoveAlias", "RemoveAlias", "Rollback", "SetPolicy", "check_policy", "previous_version"]


@dataclass(frozen=True)
class Approve(OfVersion):
    """Agree that an alias may point at a version."""

    action = Action.APPROVE
    alias: str = ""

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """Return one event; none where the principal approved before, with the same token."""
        if state.approval_by(context.principal) in state.resolve(self.ref).approvals.get(self.alias, ()):
            return []
        return [event_of(PromotionApproved, **self._names(state), alias=self.alias)]


@dataclass(frozen=True)
class MoveAlias(OfVersion):
    """Point an alias at a version, if the alias's policy allows it. Promotion is this."""

    action = Action.MOVE_ALIAS
    alias: str = ""

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event; none where it points there already.

        Raises:
            PolicyError: a rule of the alias is not fulfilled; which, and with which value.
        """
        record = state.resolve(self.ref)
        check_policy(state, record, self.alias, context)
        moves = state.models[record.registered.model].aliases.get(self.alias)
        if moves and moves[-1].version == record.registered.version:
            return []
        return [event_of(AliasMoved, **self._names(state), alias=self.alias)]


@dataclass(frozen=True)
class RemoveAlias(OfAlias):
    """Remove an alias. One with rules takes the right to set them."""

    action = Action.MOVE_ALIAS

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """Return one event.

        Raises:
            AccessDeniedError: the alias has rules, and the principal may not set them.
        """
        state.resolve(ModelRef(self.model, alias=self.alias))  # that there is such an alias
        if context.is_strict and state.has_rules(self.alias):
            _check_may_lift(state, self.target, context)
        return [event_of(AliasRemoved, model=self.model, alias=self.alias)]


@dataclass(frozen=True)
class Rollback(OfAlias):
    """Point an alias at its earlier target, or at a named version.

    The policy's other rules do not apply: the version met them before, and a rollback is urgent. A signature that the
    policy asks for is still required, since no replica serves the version without it.
    """

    action = Action.MOVE_ALIAS
    version: str | None = None

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event."""
        state.resolve(ModelRef(self.model, alias=self.alias))  # that there is such an alias
        moves = state.models[self.model].aliases[self.alias]
        rollout = state.rollout_under_way(self.model, self.alias)
        if rollout is not None and self.version is None:  # the baseline is what works: nobody means the one before it
            raise ConflictError(
                f"{rollout.candidate} is being rolled out to {self.target}, which points at {rollout.baseline} still.",
                hint=f"`llamafarm models rollout abort {self.model} --env {self.alias}` leaves it there; to go "
                "elsewhere, name a version with --version.",
            )
        version = self.version or previous_version(state, self.model, self.alias)
        if version is None:
            raise ConflictError(
                f"There is nothing before {moves[-1].version} that {self.target} pointed at and that still lives.",
                hint="Name a version with --version.",
            )
        record = state.version(self.model, version)
        was_there = version in {move.version for move in moves}
        check_policy(state, record, self.alias, context, only="signed_by" if was_there else None)
        if version == moves[-1].version:
            raise ConflictError(f"{self.target} points at {version} already.")
        return [event_of(AliasMoved, model=self.model, alias=self.alias, version=version, is_rollback=True)]


@dataclass(frozen=True)
class SetPolicy(Unbounded):
    """Replace the rules of an alias, for all models."""

    action = Action.SET_POLICY
    alias: str
    policy: Policy

    @property
    def target(self) -> str:
        """The alias."""
        return self.alias

    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """One event; none where these are its rules."""
        del context
        if state.policies.get(self.alias, Policy()) == self.policy:
            return []
        return [event_of(PolicySet, alias=self.alias, policy=self.policy)]


def previous_version(state: RegistryState, model: str, alias: str) -> str | None:
    """Return an alias's previous version, without those rolled back from and retired ones."""
    stack: list[str] = []
    for move in state.models[model].aliases[alias]:
        stack = _after_move(stack, move)
    living = (number for number in reversed(stack[:-1]) if state.models[model].versions[number].retired is None)
    return next(living, None)


def _after_move(stack: list[str], move: AliasMove) -> list[str]:
    if move.is_rollback and move.version in stack:
        last = len(stack) - 1 - stack[::-1].index(move.version)
        return stack[: last + 1]
    return [*(number for number in stack if number != move.version), move.version]


def check_policy(
    state: RegistryState, record: VersionRecord, alias: str, context: Context, *, only: str | None = None
) -> None:
    """Check that an alias may point at a version.

    Args:
        only: the one rule that counts; by default all do.

    Raises:
        PolicyError: a rule is not fulfilled; which, and with which value.
    """
    policy = state.policies.get(alias)
    if policy is None:
        return
    approvers = state.approvers(record, alias, context.now, by_name=not context.is_strict)
    found = violations(
        policy,
        record,
        promoter=context.principal,
        approvers=approvers,
        version_at=lambda other: state.at_alias(record.registered.model, other),
    )
    if context.is_strict:
        found += license_violations(policy, _bound_by(state, record))
    found = [violation for violation in found if only in {None, violation.rule}]
    if found:
        raise PolicyError(
            f"{record.ref} may not become {alias!r}: {'; '.join(violation.message for violation in found)}.",
            rules=tuple(violation.rule for violation in found),
            hint="`llamafarm registry policy show` lists the rules.",
        )


def _bound_by(state: RegistryState, record: VersionRecord) -> dict[str, str]:
    """Return the licences that bind a version besides its own, by their source: equal files, and its base."""
    own, base = record.registered.manifest, record.registered.base_digest
    contents = {own: "which has the same files", **({base: "its base"} if base else {})}
    return {
        f"{other.ref}, {contents[other.registered.manifest]},": other.license
        for other in state.versions()
        if other.registered.manifest in contents and other.ref != record.ref and other.license
    }


def _check_may_lift(state: RegistryState, target: str, context: Context) -> None:
    """Check that the caller may set policies: only such callers may remove an alias that has one.

    Raises:
        AccessDeniedError: they may not.
    """
    principal = state.principals.get(context.principal)
    if principal is not None and not allows(principal.grants, Action.SET_POLICY, EVERY_NAMESPACE):
        raise AccessDeniedError(
            f"{principal.name!r} may not remove {target}, which has rules: that takes the role "
            f"{Action.SET_POLICY.least_role} for every namespace.",
            hint="Promote or roll back to another version instead, or ask an admin.",
        )
