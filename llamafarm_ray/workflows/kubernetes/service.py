"""A deployment as a manifest for Kubernetes: a RayService, which the operator KubeRay makes a Ray cluster of.

Nothing of Kubernetes is called from here. The fields are those of ``ray.io/v1``
(https://docs.ray.io/en/latest/cluster/kubernetes/getting-started/rayservice-quick-start.html).

Pods read nothing but the home: base model and adapters are pinned to registered versions, which each replica pulls.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from llamafarm_ray.config import Config, Deployment
from llamafarm_ray.errors import InputError, NotFoundError
from llamafarm_ray.registry import RegistryApi, VersionRecord
from llamafarm_ray.registry.references import check_alive
from llamafarm_ray.serving.application import arguments
from llamafarm_ray.serving.deployment.autoscaling import DEREGISTRATION_S, DRAIN_S
from llamafarm_ray.serving.gateway.auth import check_keys
from llamafarm_ray.serving.ray_serve.accelerators import accelerator_type
from llamafarm_ray.storage import Manifest
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.deployments.deploy import with_model
from llamafarm_ray.workflows.deployments.deployed import APPLICATION
from llamafarm_ray.workflows.kubernetes.pods import (
    as_yaml,
    check_for_pods,
    cluster,
    label,
    name_of,
    pod,
    quantity,
    ray_container,
)
from llamafarm_ray.workflows.kubernetes.resources import RayCluster, Resource, WorkerGroup

__all__ = ["ray_service"]

_END_S = DEREGISTRATION_S + DRAIN_S + 30


def ray_service(config: Config, registry: RegistryApi, model: str | None = None) -> Resource:
    """Return the manifest of a configuration's deployment.

    Folders of adapters are registered, as by ``deploy`` elsewhere.

    Args:
        config: ``base_model`` and ``deployment`` are what counts.
        registry: of the home that pods will read, too.
        model: a base model, or an adapter to serve on its base; a folder or a reference.

    Raises:
        InputError: there is no image; the home or the base model is in a folder of this machine; or no one could use
            the endpoint, see :func:`llamafarm_ray.serving.gateway.auth.check_keys`.
        NotFoundError: an adapter is not registered.
        ConflictError: the base model or an adapter is retired.
    """
    config = with_model(_open_to_the_network(config, registry), registry, model)
    base = _registered_base(config, registry)
    config = config.model_copy(update={"base_model": base.ref})
    adapters = [registry.resolve(reference) for reference in config.deployment.adapters]
    for record in (base, *adapters):
        check_alive(record)
    named = config.name if "name" in config.model_fields_set else base.registered.model
    version = adapters[0] if len(adapters) == 1 else base
    name = name_of(named)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {
            "name": name,
            # Not the pods': KubeRay labels them, and what changes them makes a new cluster. Other adapters need none.
            "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/version": label(version.ref)},
        },
        "spec": {
            # A new cluster takes over when this changes; the old one's answers under way may end.
            "rayClusterDeletionDelaySeconds": _END_S,
            "serveConfigV2": as_yaml(_serve_config(config, registry.home.uri)),
            "rayClusterConfig": _cluster(config.deployment, registry.home.uri),
        },
    }


def _open_to_the_network(config: Config, registry: RegistryApi) -> Config:
    """The configuration for a pod: it listens everywhere, and asks for keys unless they are said to be unwanted."""
    deployment = config.deployment.model_copy(update={"host": "0.0.0.0"})  # noqa: S104
    check_for_pods(deployment.image, registry)
    check_keys(deployment, registry.refresh())
    deployment = deployment.model_copy(update={"require_key": deployment.require_key is not False})
    return config.model_copy(update={"deployment": deployment})


def _registered_base(config: Config, registry: RegistryApi) -> VersionRecord:
    """The version that is the base model; of a folder, the one with its files."""
    reference = config.base_model
    if reference is None:
        raise InputError("base_model is not set.", hint="Set it to a registered model.")
    path = Path(reference).expanduser()
    if path.exists():
        digest = (Manifest.of_file(path) if path.is_file() else Manifest.of_folder(path)).digest
        found = _living(registry, digest)
    else:
        try:
            return registry.resolve(reference)
        except (InputError, NotFoundError):
            found = None
            # What an adapter was trained on may have been a folder of another machine.
            for adapter in config.deployment.adapters:
                if (digest_of_base := registry.resolve(adapter).registered.base_digest) is not None:
                    found = found or _living(registry, Digest(digest_of_base))
    if found is None:
        raise InputError(
            f"The base model {reference!r} is no registered version in {registry.home.uri}, and pods read no others.",
            hint=f"Register it: llamafarm models import FOLDER --home {registry.home.uri}; then set base_model.",
        )
    return found


def _living(registry: RegistryApi, digest: Digest) -> VersionRecord | None:
    found = [record for record in registry.state.with_content(digest) if record.retired is None]
    return registry.resolve(min(found, key=lambda record: record.ref).ref) if found else None  # it checks who asks


def _serve_config(config: Config, home: str) -> dict[str, object]:
    return {
        # KubeRay takes a pod without a proxy for one that is not ready (ray-project/kuberay issue 4994).
        "proxy_location": "EveryNode",
        "http_options": {"host": config.deployment.host, "port": config.deployment.port},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "llamafarm_ray.serving.application:build",
                "args": arguments(config, home),
            }
        ],
    }


def _cluster(deployment: Deployment, home: str) -> RayCluster:
    scaling, replicas = deployment.auto_scaling, deployment.replicas
    fewest, most = (scaling.min_replicas, scaling.max_replicas) if scaling else (replicas, replicas)
    serve: dict[str, object] = {"name": "serve", "containerPort": deployment.port}
    ports: list[dict[str, object]] = [
        {"name": "gcs", "containerPort": 6379},
        {"name": "dashboard", "containerPort": 8265},
        {"name": "client", "containerPort": 10001},
        serve,
    ]
    image = str(deployment.image)
    head = ray_container("ray-head", image, home)
    head["ports"] = [*head["ports"], *ports]
    worker = ray_container("ray-worker", image, home, _resources(deployment))
    worker["ports"] = [*worker["ports"], serve]
    start: dict[str, str] = {}
    gpu = deployment.resources.gpu
    if gpu is not None and gpu.type is not None and fewest != most:
        # Ray finds out what GPUs a pod has; of pods that are not there yet its autoscaler must be told.
        start["resources"] = json.dumps(json.dumps({f"accelerator_type:{accelerator_type(gpu.type)}": 1}))
    group: WorkerGroup = {
        "groupName": "replica",
        "replicas": replicas,
        "minReplicas": fewest,
        "maxReplicas": most,
        "rayStartParams": start,
        "template": pod(worker, end_s=_END_S, has_gpu=gpu is not None),
    }
    return cluster(head, [group], end_s=_END_S)


def _resources(deployment: Deployment) -> dict[str, str]:
    """Return the resources of one replica: each of an engine's processes has its own CPUs and GPUs."""
    needs, options = deployment.resources, deployment.engine_kwargs
    gpus = needs.gpu.count if needs.gpu is not None else 0.0
    num_processes = _count(options.get("tensor_parallel_size"), max(1, int(gpus)))
    num_processes *= _count(options.get("pipeline_parallel_size"), 1)
    made = {"cpu": f"{(needs.cpu or 1) * num_processes:g}"}
    if needs.memory is not None:
        made["memory"] = quantity(needs.memory)
    if gpus:
        made["nvidia.com/gpu"] = str(math.ceil(min(1.0, gpus) * num_processes))
    return made


def _count(given: object, otherwise: int) -> int:
    """Return an option of the engine's; the engine refuses values that are not numbers."""
    return given if isinstance(given, int) and given > 0 else otherwise
