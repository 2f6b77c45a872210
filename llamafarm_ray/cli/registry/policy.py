"""``llamafarm registry policy``: conditions of an alias on the versions that it may point at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import At, Home, Json, Reason, moment
from llamafarm_ray.cli.terminal import ago, local_time, print_json, say, table

if TYPE_CHECKING:
    from llamafarm_ray.registry import Policy

__all__ = ["app"]

app = typer.Typer(
    help="Policies: rules that a version must meet before an alias may point at it.", no_args_is_help=True
)
Alias = Annotated[str, typer.Argument(metavar="ENV", help="The alias: production, ...")]


@app.command("show")
def show(
    env: Annotated[str | None, typer.Argument(help="The alias; else all that have rules.")] = None,
    at: At = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the rules in force."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.governance.audit import policy_rules
    from llamafarm_ray.workflows.governance.policies import policies

    found = policies(open_registry(home), env, at=moment(at) if at else None)
    if as_json:
        print_json({alias: policy.model_dump(mode="json") for alias, policy in found.items()})
        return
    rows = [(alias, rule, value) for alias, policy in found.items() for rule, value in policy_rules(policy).items()]
    if rows:
        table("Rules", ("alias", "rule", "value"), rows)
    else:
        has, may = ("had", "might") if at else ("has", "may")
        say(f"{env or 'No alias'} {has} {'no ' if env else ''}rules: anything {may} be promoted.")


@app.command("set")
def set_(
    env: Alias,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="Result it must reach: 'mmlu>=0.4', 'f1 no worse than production'."),
    ] = None,
    license_: Annotated[
        list[str] | None, typer.Option("--license", help="Licence it may have (SPDX id); may be given again.")
    ] = None,
    signed_by: Annotated[
        list[str] | None,
        typer.Option("--signed-by", metavar="FILE", help="Public key (PEM) that signed it; one of them."),
    ] = None,
    approvals: Annotated[int, typer.Option("--approvals", min=0, help="Number of approvals by others.")] = 0,
    clear: Annotated[bool, typer.Option("--clear", help="No rules any more.")] = False,
    reason: Reason = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Replace all rules of an alias, for every model."""
    from llamafarm_ray.errors import InputError
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.governance.policies import parse_policy, set_policy

    policy = parse_policy(metric or (), license_ or (), signed_by or (), approvals)
    if policy.is_empty and not clear:
        raise InputError("No rule was given.", hint="Give --metric, --license, --signed-by or --approvals, or --clear.")
    if clear and not policy.is_empty:
        raise InputError("Rules and --clear were given.", hint="Rules replace what was there; leave --clear out.")
    changed = set_policy(open_registry(home), env, policy, reason=reason)
    if as_json:
        print_json({"alias": env, "changed": changed, "policy": policy.model_dump(mode="json")})
        return
    say(f"{env}: {_spelled(policy)}.{'' if changed else ' So it was before.'}")


@app.command("history")
def history(env: Alias, home: Home = None, as_json: Json = False) -> None:
    """Show every set of rules that an alias had, newest first."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.governance.policies import policy_history

    found = policy_history(open_registry(home), env)
    if as_json:
        print_json(
            [
                {
                    "time": change.time.isoformat(),
                    "principal": change.principal,
                    "reason": change.reason,
                    "policy": change.policy.model_dump(mode="json"),
                }
                for change in found
            ]
        )
        return
    rows = [
        (local_time(change.time), ago(change.time), change.principal, _spelled(change.policy), change.reason)
        for change in found
    ]
    if rows:
        table(f"Rules of {env}", ("time", "", "by", "rules", "reason"), rows, drop_empty=True)
    else:
        say(f"{env} never had rules.")


def _spelled(policy: Policy) -> str:
    from llamafarm_ray.workflows.governance.audit import policy_rules

    return "; ".join(f"{rule} {value}" for rule, value in policy_rules(policy).items()) or "no rules"
