"""Stop what is deployed, or strike from the record what was lost with its cluster."""

from __future__ import annotations

import contextlib
import socket

from llamafarm_ray.errors import ConflictError
from llamafarm_ray.registry import DeploymentRecorded, RegistryApi
from llamafarm_ray.registry.commands import RemoveDeployment
from llamafarm_ray.serving.announcing import withdraw
from llamafarm_ray.workflows.cluster import ClusterInfo
from llamafarm_ray.workflows.deployed import APPLICATION

__all__ = ["check_undeploy", "forget", "undeploy"]

_CONNECT_S = 5.0


def check_undeploy(registry: RegistryApi, deployment: DeploymentRecorded) -> None:
    """Make sure that whoever asks may take a deployment off the record: before anything is stopped.

    Raises:
        AccessDeniedError: they may not.
    """
    command = RemoveDeployment(deployment)
    for namespace in sorted(command.namespaces):
        registry.allow(command.action, namespace, target=deployment.application)


def undeploy(registry: RegistryApi, cluster: ClusterInfo, application: str = APPLICATION) -> None:
    """Stop an application of the connected cluster, letting requests under way finish, and take it off the record.

    Its rollouts stay as they are: the next deployment goes on with them. One that Serve has no more is fine.
    On a Ray that ends with this command nothing is waited for: it stops the application with everything else.
    """
    from ray import serve  # noqa: PLC0415

    from llamafarm_ray.serving.rollouts.actor import stop_controller  # noqa: PLC0415

    if not cluster.started_here:
        with contextlib.suppress(TimeoutError):  # answers under way take longer; the replicas go when they have ended
            serve.delete(application)
        stop_controller(registry.home.uri, application)
    withdraw(registry, application, cluster.address)


def forget(registry: RegistryApi, deployment: DeploymentRecorded) -> None:
    """Take a deployment off the record whose cluster is no more, so that nothing is looked for there.

    Raises:
        ConflictError: its cluster still answers.
        AccessDeniedError: who asks may not.
    """
    host, _, port = deployment.ray_address.rpartition(":")
    with contextlib.suppress(OSError, ValueError):
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        raise ConflictError(
            f"The cluster of {deployment.application} answers at {deployment.ray_address}: it is not lost.",
            hint="Leave out --forget, and the application is stopped there.",
        )
    registry.submit(RemoveDeployment(deployment), reason="its cluster is no more")
