"""Stop a deployment, or remove the record of one whose cluster is lost."""

from __future__ import annotations

from llamafarm_ray.errors import ConflictError
from llamafarm_ray.registry import DeploymentRecorded, RegistryApi
from llamafarm_ray.registry.commands import RemoveDeployment
from llamafarm_ray.serving.deployment.reconciler import is_same_cluster, withdraw
from llamafarm_ray.workflows.clusters.cluster import ClusterInfo, quiet
from llamafarm_ray.workflows.deployments.deployed import APPLICATION

__all__ = ["check_undeploy", "forget", "stop", "undeploy"]


def check_undeploy(registry: RegistryApi, deployment: DeploymentRecorded) -> None:
    """Check that the caller may remove a deployment's record, before anything is stopped.

    Raises:
        AccessDeniedError: they may not.
    """
    command = RemoveDeployment(deployment)
    for namespace in sorted(command.namespaces):
        registry.allow(command.action, namespace, target=deployment.application)


def undeploy(registry: RegistryApi, cluster: ClusterInfo) -> None:
    """Stop what :func:`~.deploy.deploy` started on the connected cluster, letting requests under way finish.

    On a Ray that ends with this command nothing is waited for: it stops the application with everything else.
    """
    if not cluster.started_here:
        _delete(registry, APPLICATION)
    withdraw(registry, APPLICATION, cluster.address)


def stop(registry: RegistryApi, cluster: ClusterInfo, deployment: DeploymentRecorded) -> bool:
    """Stop a recorded deployment on the connected cluster, letting requests under way finish; it goes off the record.

    Its rollouts stay as they are: the next deployment goes on with them. That Serve does not have it any more is fine.

    Returns:
        True if it has ended; otherwise its last answers take longer than a minute, and it ends with them.

    Raises:
        ConflictError: the connected cluster is not the one where it runs.
        AccessDeniedError: the caller may not take it off the record.
    """
    from llamafarm_ray.serving.ray_serve.state import home_of, is_deployed

    has_ended = True
    if is_deployed(deployment.application):
        if home_of(deployment.application) != registry.home.uri:
            raise ConflictError(
                f"The application {deployment.application} at {cluster.address} serves another registry than "
                f"{registry.home.uri}: it is not the one on record.",
                hint=f"That runs at {deployment.ray_address}.",
            )
        has_ended = _delete(registry, deployment.application)
    elif not is_same_cluster(cluster.address, deployment.ray_address):
        raise ConflictError(
            f"The cluster at {cluster.address} has no application {deployment.application}.",
            hint=f"On record it runs at {deployment.ray_address}; where that is no more, say --forget.",
        )
    registry.submit(RemoveDeployment(deployment), reason="undeploy")
    return has_ended


def _delete(registry: RegistryApi, application: str) -> bool:
    from ray import serve

    from llamafarm_ray.serving.deployment.rollout_actor import stop_controller

    quiet()  # Serve's import sets its logger up anew
    try:
        serve.delete(application)
    except TimeoutError:  # answers under way take longer; the replicas go when they have ended
        return False
    finally:
        stop_controller(registry.home.uri, application)
    return True


def forget(registry: RegistryApi, deployment: DeploymentRecorded) -> None:
    """Take a deployment off the record whose cluster is no more, so that nothing is looked for there.

    One that runs all the same records itself again: its replicas look every half a minute.

    Raises:
        AccessDeniedError: the caller may not do this.
    """
    registry.submit(RemoveDeployment(deployment), reason="its cluster is no more")
