"""Policies of aliases: the current and earlier ones, and changes of them."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from llamafarm_ray.config.goals import Goal, parse_goal
from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import Policy, RegistryApi, check_alias, check_new_alias
from llamafarm_ray.registry.commands import SetPolicy
from llamafarm_ray.registry.governance.access import EVERY_NAMESPACE, Action
from llamafarm_ray.types import Digest

__all__ = ["PolicyChange", "parse_policy", "policies", "policy_history", "set_policy"]


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """The rules that an alias got."""

    time: dt.datetime
    principal: str
    reason: str
    policy: Policy


def policies(registry: RegistryApi, alias: str | None = None, *, at: dt.datetime | None = None) -> dict[str, Policy]:
    """The rules in force by alias, or those of one alias: an empty policy where it has none.

    Args:
        registry: the registry to read.
        alias: only this one.
        at: as of when; now by default.

    Raises:
        InputError: that is no alias's name.
        AccessDeniedError: it takes the right to read every namespace.
    """
    if alias is not None:
        check_alias(alias)
    now = registry.refresh()
    registry.allow(Action.READ, EVERY_NAMESPACE, target="policies")
    state = now if at is None else registry.state_at(at)
    if alias is not None:
        return {alias: state.policies.get(alias, Policy())}
    return {name: state.policies[name] for name in sorted(state.policies) if not state.policies[name].is_empty}


def policy_history(registry: RegistryApi, alias: str) -> list[PolicyChange]:
    """Every set of rules that an alias had, newest first.

    Raises:
        InputError: that is no alias's name.
        AccessDeniedError: it takes the right to read every namespace.
    """
    check_alias(alias)
    registry.refresh()
    registry.allow(Action.READ, EVERY_NAMESPACE, target="policies")
    found = [
        PolicyChange(change.time, change.principal, change.reason, event.policy)
        for commit in registry.commits()
        for change in commit.changes
        for event in change.events
        if event.type == "policy_set" and event.alias == alias
    ]
    return found[::-1]


def set_policy(registry: RegistryApi, alias: str, policy: Policy, *, reason: str = "") -> bool:
    """Replace the policy of an alias, for all models; return True if that changed anything.

    Raises:
        InputError: that is no alias's name, or it would be taken for something else.
        AccessDeniedError: it takes an admin.
    """
    check_new_alias(alias, registry.refresh())
    return bool(registry.submit(SetPolicy(alias, policy), reason=reason).events)


def parse_policy(
    metrics: Sequence[str] = (), licenses: Sequence[str] = (), signed_by: Sequence[str] = (), approvals: int = 0
) -> Policy:
    """Rules as people write them.

    Args:
        metrics: ``accuracy>0.8`` or ``accuracy no worse than production`` each.
        licenses: SPDX ids.
        signed_by: files with public keys (PEM), or the digests of such keys.
        approvals: number of other principals that must approve.

    Raises:
        InputError: one of them is unusable, and says which.
    """
    goals = dict(_goal(text) for text in metrics)
    if len(goals) < len(metrics):
        raise InputError("A metric is named twice.", hint="Give one rule for each metric.")
    keys = tuple(_key(text) for text in signed_by)
    try:
        return Policy(metrics=goals, licenses=tuple(licenses), signed_by=keys, approvals=approvals)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{first['loc'][0]} is unusable: {first['msg']} (it is {first['input']!r}).") from None


def _goal(text: str) -> tuple[str, Goal]:
    name, goal = text, ""
    if match := _RULE.fullmatch(text.strip()):
        name, goal = match["name"], match["goal"]
    try:
        return name, parse_goal(goal)
    except ValueError:
        hint = (
            "Write it like 'accuracy>0.8', 'accuracy no worse than production' or 'accuracy not significantly worse "
            "than production'."
        )
        raise InputError(f"{text!r} is no rule for a metric.", hint=hint) from None


_RULE = re.compile(
    r"(?P<name>[^\s<>]+)\s*(?P<goal>[<>].*|(?:no worse|not significantly worse|better) than .*)", re.DOTALL
)


def _key(text: str) -> Digest:
    path = Path(text)
    if not path.is_file() and text.startswith("sha256:"):
        return Digest(text)
    from llamafarm_ray.registry.signing import key_digest  # few ask for signatures

    try:
        return key_digest(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{text} can't be read as a public key: {error}.", hint="Give a PEM file.") from None
