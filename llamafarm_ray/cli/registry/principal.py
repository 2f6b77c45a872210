"""``llamafarm registry principal``: principals and their roles."""

from __future__ import annotations

import datetime as dt
import sys
from typing import Annotated

import typer

from llamafarm_ray.cli.options import At, Home, Json, Reason, expiry, moment
from llamafarm_ray.cli.terminal import errors, local_time, print_json, say, table

__all__ = ["app"]

app = typer.Typer(help="Principals: people and programs with roles and tokens.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the principal.")]
RoleName = Annotated[str, typer.Option("--role", help="viewer, developer, deployer or admin.")]
Namespaces = Annotated[
    list[str] | None,
    typer.Option("--namespace", help="Namespace of the role (NAMESPACE/model); else all; may be repeated."),
]


@app.command("add")
def add(
    name: Name,
    role: RoleName,
    namespace: Namespaces = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="TIME", help="End of the token: 90d from now, or 2027-01-31 (local time)."),
    ] = None,
    reason: Reason = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add a principal and print its token, once. The first one, an admin, switches access control on."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.governance.principals import add_principal

    until = expiry(expires) if expires else None
    token = add_principal(open_registry(home), name, role, namespace or (), expires=until, reason=reason)
    if as_json:
        print_json({"name": name, "token": token})
        return
    errors.line(f"The token of {name}, shown this once and kept nowhere. It is used as LLAMAFARM_TOKEN:")
    sys.stdout.write(f"{token}\n")


@app.command("list")
def list_(at: At = None, home: Home = None, as_json: Json = False) -> None:
    """List everybody, those whose token has ended included."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.governance.audit import roles
    from llamafarm_ray.workflows.governance.principals import principal_status, principals

    time = moment(at) if at else None
    found, now = principals(open_registry(home), at=time), time or dt.datetime.now(dt.UTC)
    if as_json:
        print_json(
            [
                {
                    "name": known.name,
                    "status": principal_status(known, now),
                    "grants": dict(known.grants),
                    "expires": known.expires.isoformat() if known.expires else None,
                }
                for known in found
            ]
        )
        return
    if not found:
        were, might = ("were", "might") if at else ("are", "may")
        say(f"There {were} no principals: whoever can write to the home {might} do everything.")
        return
    rows = [
        (
            known.name,
            principal_status(known, now),
            roles(known.grants),
            local_time(known.expires) if known.expires else "",
        )
        for known in found
    ]
    table("Principals", ("name", "status", "roles", "expires"), rows, drop_empty=True)


@app.command("grant")
def grant(
    name: Name,
    role: RoleName,
    namespace: Namespaces = None,
    reason: Reason = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Replace all roles of a principal by one."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.governance.audit import roles
    from llamafarm_ray.workflows.governance.principals import grant as grant_role

    principal = grant_role(open_registry(home), name, role, namespace or (), reason=reason)
    if as_json:
        print_json({"name": name, "grants": dict(principal.grants)})
        return
    say(f"{name} is now {roles(principal.grants)}, and nothing else.")


@app.command("revoke")
def revoke(name: Name, reason: Reason = "", home: Home = None, as_json: Json = False) -> None:
    """Revoke a principal's token."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.governance.principals import revoke as revoke_token

    revoke_token(open_registry(home), name, reason=reason)
    if as_json:
        print_json({"name": name, "status": "revoked"})
        return
    say(f"The token of {name} is worth nothing any more.")
