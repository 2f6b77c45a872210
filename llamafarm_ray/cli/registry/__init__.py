"""``llamafarm registry``: verification, the audit trail, principals, policies and quotas."""

from __future__ import annotations

import typer

from llamafarm_ray.cli.registry import audit, health, policy, principal, quota

__all__ = ["app"]

app = typer.Typer(help="Verify the registry, audit it, set its rules.", no_args_is_help=True)
app.command("verify")(health.verify)
app.command("head")(health.head)
app.command("audit")(audit.command)
app.add_typer(policy.app, name="policy")
app.add_typer(quota.app, name="quota")
app.add_typer(principal.app, name="principal")
