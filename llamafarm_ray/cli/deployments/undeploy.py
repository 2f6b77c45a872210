"""``llamafarm models undeploy``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from llamafarm_ray.cli.options import ControlAddress, Home, Json
from llamafarm_ray.cli.terminal import begin, console, print_json

__all__ = ["command"]


def command(
    application: Annotated[
        str | None, typer.Option("--application", help="Serve's name for it; by default the one that is deployed.")
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Only strike it from the record: its cluster is no more.")
    ] = False,
    home: Home = None,
    address: ControlAddress = None,
    as_json: Json = False,
) -> None:
    """Stop a deployment: requests under way finish, rollouts stay as they are."""
    from llamafarm_ray.errors import ClusterError, InputError
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.clusters.cluster import connect
    from llamafarm_ray.workflows.deployments import undeploy
    from llamafarm_ray.workflows.deployments.deployed import deployment_of

    registry = open_registry(home)
    deployment = deployment_of(registry, application)
    if forget:
        undeploy.forget(registry, deployment)
        state, said = "forgotten", "is off the record. If it runs all the same, it comes back there by itself"
    else:
        undeploy.check_undeploy(registry, deployment)
        try:
            with connect(address or deployment.ray_address, on_start=partial(begin, quiet=as_json)) as cluster:
                begin(f"Stopping {deployment.application}: requests under way finish", quiet=as_json)
                has_ended = undeploy.stop(registry, cluster, deployment)
        except (InputError, ClusterError) as error:
            if address is not None:
                raise
            hint = "Say --address if it is known by another one from here, or --forget if it is no more."
            raise type(error)(error.message, hint=hint) from error
        state, said = ("stopped", "is stopped") if has_ended else ("stopping", "ends with its last answers under way")
    if as_json:
        print_json({"application": deployment.application, "url": deployment.url, "state": state})
        return
    console.print(f"{deployment.application} at {deployment.url} {said}.", markup=False)
