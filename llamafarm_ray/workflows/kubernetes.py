"""A deployment as a manifest for Kubernetes: a RayService, which the operator KubeRay makes a Ray cluster of.

Nothing of Kubernetes is called from here. The fields are those of ``ray.io/v1``
(https://docs.ray.io/en/latest/cluster/kubernetes/getting-started/rayservice-quick-start.html).

Pods read nothing but the home: base model and adapters are pinned to registered versions, which each replica pulls.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from llamafarm_ray.config import Config, Deployment, MemorySize
from llamafarm_ray.config.yaml_core import plain_scalar
from llamafarm_ray.errors import InputError, NotFoundError
from llamafarm_ray.registry import RegistryApi, VersionRecord
from llamafarm_ray.registry.api import check_alive
from llamafarm_ray.serving.accelerators import accelerator_type
from llamafarm_ray.serving.access import check_keys
from llamafarm_ray.serving.application import SERVE_ENV, arguments
from llamafarm_ray.serving.haproxy import PATH_VARIABLE
from llamafarm_ray.serving.scaling import DEREGISTRATION_S, DRAIN_S
from llamafarm_ray.storage import Manifest
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.deploy import with_model
from llamafarm_ray.workflows.deployed import APPLICATION

__all__ = ["SECRET", "as_yaml", "ray_service"]

SECRET = "llamafarm"  # noqa: S105  (its name)
"""The Kubernetes secret whose keys are environment variables of all pods: LLAMAFARM_TOKEN, the bucket's credentials."""

_END_S = DEREGISTRATION_S + DRAIN_S + 30
_ENV = {**SERVE_ENV, "RAY_worker_niceness": "0"}
_CACHE = "/var/cache/llamafarm"
_OUR_HAPROXY = f"export {PATH_VARIABLE}=$(command -v llamafarm-haproxy)"
"""KubeRay runs a container's command in the shell that then starts Ray, so the image may have the program anywhere.
https://docs.ray.io/en/latest/cluster/kubernetes/user-guides/pod-command.html"""
_HEAD = {"cpu": "2", "memory": "8Gi"}
"""For Ray's and Serve's controllers, dashboard, HAProxy and the router; replicas are in pods of their own."""
_MAX_NAME = 47
"""KubeRay's limit: names of services are made of it."""
_MAX_LABEL = 63
_QUANTITY = re.compile(r"\d+(\.\d+)?([KMGT]i|[kMGT])?")


def ray_service(config: Config, registry: RegistryApi, model: str | None = None) -> dict[str, Any]:
    """The manifest of a configuration's deployment.

    Folders of adapters are registered, as by ``deploy`` elsewhere.

    Args:
        config: ``base_model`` and ``deployment`` are what counts.
        registry: of the home that pods will read, too.
        model: a base model, or an adapter to serve on its base; a folder or a reference.

    Raises:
        InputError: there is no image; the home or the base model is in a folder of this machine; or nobody could use
            the endpoint, see :func:`llamafarm_ray.serving.access.check_keys`.
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
    name = _name(named)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {
            "name": name,
            # Not the pods': KubeRay labels them, and what changes them makes a new cluster. Other adapters need none.
            "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/version": _label(version.ref)},
        },
        "spec": {
            # A new cluster takes over when this changes; the old one's answers under way may end.
            "rayClusterDeletionDelaySeconds": _END_S,
            "serveConfigV2": as_yaml(_serve_config(config, registry.home.uri)),
            "rayClusterConfig": _cluster(config.deployment, registry.home.uri),
        },
    }


def as_yaml(table: dict[str, Any]) -> str:
    """JSON-like values as YAML that every reader understands alike, whichever version of YAML it speaks."""
    return yaml.dump(table, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as such, no anchors, and quotes around what YAML 1.2 would take for a number."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None if _is_plain(text) else "'"
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _is_plain(text: str) -> bool:
    try:
        return isinstance(plain_scalar(text), str)
    except yaml.YAMLError:
        return False


def _open_to_the_network(config: Config, registry: RegistryApi) -> Config:
    """The configuration for a pod: it listens everywhere, and asks for keys unless they are said to be unwanted."""
    deployment = config.deployment.model_copy(update={"host": "0.0.0.0"})  # noqa: S104
    if deployment.image is None:
        raise InputError(
            "deployment.image is not set: Kubernetes runs containers.",
            hint="Name an image with this package in it: --set deployment.image=registry.example.com/llamafarm:1.0.",
        )
    if registry.home.is_local:
        raise InputError(
            f"The home {registry.home.uri} is a folder of this machine, which pods can't read.",
            hint="Say --home s3://bucket/llamafarm, or set LLAMAFARM_HOME to a bucket; `llamafarm models import` and "
            "`register` with that home put models there.",
        )
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


def _serve_config(config: Config, home: str) -> dict[str, Any]:
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


def _cluster(deployment: Deployment, home: str) -> dict[str, Any]:
    scaling, replicas = deployment.auto_scaling, deployment.replicas
    fewest, most = (scaling.min_replicas, scaling.max_replicas) if scaling else (replicas, replicas)
    serve = {"name": "serve", "containerPort": deployment.port}
    ports = [
        {"name": "gcs", "containerPort": 6379},
        {"name": "dashboard", "containerPort": 8265},
        {"name": "client", "containerPort": 10001},
        serve,
    ]
    head = _ray_container("ray-head", deployment, home, _HEAD) | {"ports": ports}
    worker = _ray_container("ray-worker", deployment, home, _resources(deployment)) | {"ports": [serve]}
    start: dict[str, str] = {}
    gpu = deployment.resources.gpu
    if gpu is not None and gpu.type is not None and fewest != most:
        # Ray finds out what GPUs a pod has; of pods that are not there yet its autoscaler must be told.
        start["resources"] = json.dumps(json.dumps({f"accelerator_type:{accelerator_type(gpu.type)}": 1}))
    made: dict[str, Any] = {
        "rayVersion": importlib.metadata.version("ray"),
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},  # noqa: S104
            "template": _pod(head),
        },
        "workerGroupSpecs": [
            {
                "groupName": "replica",
                "replicas": replicas,
                "minReplicas": fewest,
                "maxReplicas": most,
                "rayStartParams": start,
                "template": _pod(worker, has_gpu=gpu is not None),
            }
        ],
    }
    return {"enableInTreeAutoscaling": True, **made} if fewest != most else made


def _pod(container: dict[str, Any], *, has_gpu: bool = False) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "terminationGracePeriodSeconds": _END_S,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "cache", "emptyDir": {}}],
    }
    if has_gpu:
        spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return {"spec": spec}


def _ray_container(name: str, deployment: Deployment, home: str, resources: dict[str, str]) -> dict[str, Any]:
    env = {"LLAMAFARM_HOME": home, "LLAMAFARM_CACHE": _CACHE, **_ENV}
    return {
        "name": name,
        "image": deployment.image,
        "command": [_OUR_HAPROXY],
        "resources": {"requests": resources, "limits": resources},
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "envFrom": [{"secretRef": {"name": SECRET, "optional": True}}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "cache", "mountPath": _CACHE}],
    }


def _resources(deployment: Deployment) -> dict[str, str]:
    """What one replica takes: of CPUs and GPUs each of an engine's processes has its own."""
    needs, options = deployment.resources, deployment.engine_kwargs
    gpus = needs.gpu.count if needs.gpu is not None else 0.0
    num_processes = _count(options.get("tensor_parallel_size"), max(1, int(gpus)))
    num_processes *= _count(options.get("pipeline_parallel_size"), 1)
    made = {"cpu": f"{(needs.cpu or 1) * num_processes:g}"}
    if needs.memory is not None:
        made["memory"] = _quantity(needs.memory)
    if gpus:
        made["nvidia.com/gpu"] = str(math.ceil(min(1.0, gpus) * num_processes))
    return made


def _count(given: object, otherwise: int) -> int:
    """An option of the engine's; what is no number is the engine's to refuse."""
    return given if isinstance(given, int) and given > 0 else otherwise


def _quantity(size: MemorySize) -> str:
    """An amount of memory as Kubernetes writes it; we read some spellings more."""
    return size.spelling if _QUANTITY.fullmatch(size.spelling) else str(size.num_bytes)


def _name(model: str) -> str:
    """A model's name as an RFC 1035 label; the end of a long one gives way to a digest: names stay different."""
    name = f"llamafarm-{re.sub(r'[^a-z0-9]+', '-', model.lower()).strip('-')}"
    if len(name) <= _MAX_NAME:
        return name
    return f"{name[: _MAX_NAME - 9].rstrip('-')}-{Digest.of(model.encode()).hex[:8]}"


def _label(ref: str) -> str:
    """``name:1.2.0`` as a label's value, ``name-v1.2.0``."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", ref.replace(":", "-v"))[-_MAX_LABEL:].strip("._-")
