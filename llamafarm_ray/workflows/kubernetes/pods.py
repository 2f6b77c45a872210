"""Parts that manifests for KubeRay share: pods, their environment, names, and YAML for every reader."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping

import yaml

from llamafarm_ray.config import MemorySize
from llamafarm_ray.config.loading.yaml_core import plain_scalar
from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.serving.application import SERVE_ENV
from llamafarm_ray.serving.haproxy import PATH_VARIABLE
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.kubernetes.resources import Container, PodSpec, PodTemplate, RayCluster, WorkerGroup

__all__ = [
    "DIGEST",
    "SECRET",
    "as_yaml",
    "check_for_pods",
    "cluster",
    "label",
    "name_of",
    "pod",
    "quantity",
    "ray_container",
    "submitter",
]

SECRET = "llamafarm"  # noqa: S105  (its name)
"""The Kubernetes secret whose keys are environment variables of all pods: LLAMAFARM_TOKEN, the bucket's credentials."""
DIGEST = "llamafarm-ray/digest"
"""Annotation of a RayJob: digest of the applied manifest, which tells it from another one of its name."""

_ENV = {**SERVE_ENV, "RAY_worker_niceness": "0"}
_CACHE = "/var/cache/llamafarm"
_WRITABLE = {"cache": _CACHE, "home": "/home/llamafarm", "tmp": "/tmp"}  # noqa: S108
"""Volumes of a pod, which are all that its containers can write to. $HOME is one of them, whatever the image says."""
_MOUNTS = [{"name": name, "mountPath": path} for name, path in _WRITABLE.items()]
_CONFINED: dict[str, object] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_METRICS_PORT = 8080
"""KubeRay has Ray export its metrics there."""
_SUBMITTER_END_S = 30
_USER = {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000}
"""The image's user. Those of Ray's own images have the same number."""
_OUR_HAPROXY = f"export {PATH_VARIABLE}=$(command -v llamafarm-haproxy)"
"""KubeRay runs a container's command in the shell that then starts Ray, so the image may have the program anywhere.
https://docs.ray.io/en/latest/cluster/kubernetes/user-guides/pod-command.html"""
_HEAD = {"cpu": "2", "memory": "8Gi"}
"""For Ray's and Serve's controllers, dashboard, HAProxy and the router; work is in pods of its own."""
_MAX_NAME = 47
"""KubeRay's limit: names of services are made of it."""
_MAX_LABEL = 63
_QUANTITY = re.compile(r"\d+(\.\d+)?([KMGT]i|[kMGT])?")


def check_for_pods(image: str | None, registry: RegistryApi) -> str:
    """Return the image, once it is known that pods can read the home.

    Raises:
        InputError: there is no image, or the home is in a folder of this machine.
    """
    if image is None:
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
    return image


def cluster(head: Container, workers: list[WorkerGroup], *, end_s: int) -> RayCluster:
    """Return the cluster of a manifest: a head that does no work, and groups of workers.

    Args:
        workers: the groups, each with a pod of its own.
        end_s: seconds that the head's pod gets to end.
    """
    scales = any(group["minReplicas"] != group["maxReplicas"] for group in workers)  # Ray's autoscaler asks for pods
    made: RayCluster = {
        "rayVersion": importlib.metadata.version("ray"),
        "authOptions": {"mode": "token"},  # the operator makes it, in a secret of the cluster's name
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},  # noqa: S104
            "template": pod(head, end_s=end_s, calls_kubernetes=scales),
        },
        "workerGroupSpecs": workers,
    }
    return {"enableInTreeAutoscaling": True, **made} if scales else made


def pod(container: Container, *, end_s: int, has_gpu: bool = False, calls_kubernetes: bool = False) -> PodTemplate:
    """Return the template of a pod with one container.

    Its label is the one by which cluster/kubernetes protects pods and scrapes their metrics.

    Args:
        end_s: seconds that it gets to end.
        has_gpu: let it onto nodes with GPUs.
        calls_kubernetes: give it a token of the Kubernetes API.
    """
    spec: PodSpec = {
        "terminationGracePeriodSeconds": end_s,
        "automountServiceAccountToken": calls_kubernetes,
        "securityContext": {**_USER, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": name, "emptyDir": {}} for name in _WRITABLE],
    }
    if has_gpu:
        spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return {"metadata": {"labels": {"app.kubernetes.io/part-of": "llamafarm"}}, "spec": spec}


def submitter(image: str) -> PodTemplate:
    """Return the pod that submits a RayJob; the operator sets its command, and Ray's token."""
    resources = {"cpu": "500m", "memory": "1Gi"}
    container: Container = {
        "name": "ray-job-submitter",
        "image": image,
        "resources": {"requests": resources, "limits": resources},
        "env": [{"name": "HOME", "value": _WRITABLE["home"]}],
        "securityContext": _CONFINED,
        "volumeMounts": _MOUNTS,
    }
    template = pod(container, end_s=_SUBMITTER_END_S)
    template["spec"]["restartPolicy"] = "Never"
    return template


def ray_container(name: str, image: str, home: str, resources: dict[str, str] | None = None) -> Container:
    """Return a container that runs Ray.

    Args:
        name: ``ray-head`` or ``ray-worker``.
        image: with this package in it.
        resources: requests and limits; by default a head's.
    """
    env = {"LLAMAFARM_HOME": home, "LLAMAFARM_CACHE": _CACHE, "HOME": _WRITABLE["home"], **_ENV}
    return {
        "name": name,
        "image": image,
        "command": [_OUR_HAPROXY],
        "resources": {"requests": resources or _HEAD, "limits": resources or _HEAD},
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "envFrom": [{"secretRef": {"name": SECRET, "optional": True}}],
        "securityContext": _CONFINED,
        "ports": [{"name": "metrics", "containerPort": _METRICS_PORT}],
        "volumeMounts": list(_MOUNTS),
    }


def quantity(size: MemorySize) -> str:
    """Return an amount of memory as Kubernetes writes it; we read some spellings more."""
    return size.spelling if _QUANTITY.fullmatch(size.spelling) else str(size.num_bytes)


def name_of(model: str) -> str:
    """Return a model's name as an RFC 1035 label; the end of a long one gives way to a digest: names stay different."""
    name = f"llamafarm-{re.sub(r'[^a-z0-9]+', '-', model.lower()).strip('-')}"
    if len(name) <= _MAX_NAME:
        return name
    return f"{name[: _MAX_NAME - 9].rstrip('-')}-{Digest.of(model.encode()).hex[:8]}"


def label(ref: str) -> str:
    """Return ``name:1.2.0`` as a label's value, ``name-v1.2.0``."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", ref.replace(":", "-v"))[-_MAX_LABEL:].strip("._-")


def as_yaml(*tables: Mapping[str, object]) -> str:
    """Return JSON-like values as YAML that every reader understands alike, whichever version of YAML it speaks."""
    return yaml.dump_all(tables, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as such, no anchors, and quotes around what YAML 1.2 would take for a number."""

    def ignore_aliases(self, _data: object) -> bool:
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
