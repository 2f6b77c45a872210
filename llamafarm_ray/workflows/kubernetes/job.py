"""A training as a manifest for Kubernetes: a RayJob, for which KubeRay makes a Ray cluster that ends with it.

The fields are those of ``ray.io/v1``
(https://docs.ray.io/en/latest/cluster/kubernetes/getting-started/rayjob-quick-start.html).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from llamafarm_ray.config import Config, resolved
from llamafarm_ray.errors import InputError, NotFoundError
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.registry.references import check_alive
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.inspection.base import CHECKPOINTS
from llamafarm_ray.workflows.kubernetes.pods import (
    DIGEST,
    check_for_pods,
    cluster,
    label,
    name_of,
    pod,
    ray_container,
    submitter,
)
from llamafarm_ray.workflows.kubernetes.resources import Resource, WorkerGroup

__all__ = ["ray_job"]

_FOLDER = "/etc/llamafarm"
_CONFIG = "config.json"
_OUTPUTS = "/home/llamafarm/trained_models"
"""Folder of outputs. With `checkpoint_location` a run that starts anew at the same path goes on."""
_END_S = 120
"""A checkpoint may be under way."""
_RETRIES = 3
_KEPT_S = 86_400
_CPUS_BESIDE = 1
"""Of each pod, for reading data."""
_GIB_PER_WORKER = 32


def ray_job(config: Config, registry: RegistryApi) -> list[Resource]:
    """Return the manifests of a training: a ConfigMap with the configuration, and the RayJob that reads it.

    The result is registered. Checkpoints are in a bucket, so that a run goes on when its pods are made anew.

    Args:
        config: ``base_model``, ``dataset`` and ``fine_tuning`` are what counts, and ``deployment.image``.
        registry: of the home that pods will read, too.

    Raises:
        InputError: there is no image, the home is in a folder of this machine, or something that the training reads is.
        NotFoundError: the base model is not registered.
        ConflictError: the base model is retired.
    """
    image = check_for_pods(config.deployment.image, registry)
    table = _for_pods(config, registry)
    name = name_of(f"train-{config.name}")
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/version": label(config.name)}
    mount = {"name": "config", "mountPath": _FOLDER}
    home = registry.home.uri
    head = ray_container("ray-head", image, home)
    head["volumeMounts"].append(mount)
    spec = cluster(head, [_workers(config, image, home)], end_s=_END_S)
    volumes = spec["headGroupSpec"]["template"]["spec"]["volumes"]
    volumes.append({"name": "config", "configMap": {"name": name}})
    written = json.dumps(table, indent=2, ensure_ascii=False)
    digest = Digest.of(json.dumps([written, spec], sort_keys=True).encode())
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": labels},
            "data": {_CONFIG: written + "\n"},
        },
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": name, "labels": labels, "annotations": {DIGEST: str(digest)}},
            "spec": {
                "entrypoint": f"llamafarm models train --register --config {_FOLDER}/{_CONFIG} "
                f"--output {_OUTPUTS}/{config.name}",
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": _KEPT_S,
                "backoffLimit": _RETRIES,  # each goes on from the last checkpoint
                "submitterPodTemplate": submitter(image),
                "rayClusterSpec": spec,
            },
        },
    ]


def _for_pods(config: Config, registry: RegistryApi) -> dict[str, object]:
    """Return the resolved configuration as pods read it; what they can't read is refused."""
    base = config.base_model
    if base is None:
        raise InputError("base_model is not set.", hint="Set it to a registered model, or one of a hub.")
    for key, path in _read(config):
        if "://" not in path and Path(path).expanduser().exists():
            raise InputError(
                f"{key}: {path!r} is a file or folder of this machine, which pods can't read.",
                hint="Register a base model with `llamafarm models import`; name documents by a bucket, s3://..., as "
                "dataset.source.path; or name a path that only the pods have.",
            )
    table = resolved(config)
    try:
        record = registry.resolve(base)
    except (InputError, NotFoundError):
        if "/" not in base:  # neither a version, nor a hub's name
            raise
    else:
        check_alive(record)
        table["base_model"] = record.ref
    table["home"] = registry.home.uri
    table["cluster"]["address"] = None
    training = table["fine_tuning"]["training"]
    if training["checkpoint_location"] is None:
        training["checkpoint_location"] = f"{registry.home.uri.rstrip('/')}/{CHECKPOINTS}"
    return table


def _read(config: Config) -> Iterator[tuple[str, str]]:
    """Yield the keys that name the training's inputs, each with a path, URI or name."""
    dataset = config.dataset
    yield "base_model", config.base_model or ""
    if dataset.path is not None:
        yield "dataset.path", dataset.path
    for path in dataset.mixture or ():
        yield "dataset.mixture", path
    if dataset.path is None and not dataset.mixture:
        sources = dataset.source.path or ()
        for path in [sources] if isinstance(sources, str) else sources:
            yield "dataset.source.path", path


def _workers(config: Config, image: str, home: str) -> WorkerGroup:
    """Return the group of pods that train: one for each node; in an elastic run, one for each worker."""
    wanted = config.fine_tuning.distributed
    num_workers = wanted.num_workers or 1
    num_nodes = wanted.nodes or (1 if wanted.min_workers is None else num_workers)
    per_node = -(-num_workers // num_nodes)
    least = -(-(wanted.min_workers or num_workers) // per_node)
    has_gpu = wanted.gpus is not None
    cpus = per_node * (wanted.cpus_per_worker or 4) + _CPUS_BESIDE
    resources = {"cpu": str(cpus), "memory": f"{_GIB_PER_WORKER * per_node}Gi"}
    if has_gpu:
        resources["nvidia.com/gpu"] = str(per_node)
    return {
        "groupName": "train",
        "replicas": num_nodes,
        "minReplicas": least,
        "maxReplicas": num_nodes,
        "rayStartParams": {},
        "template": pod(ray_container("ray-worker", image, home, resources), end_s=_END_S, has_gpu=has_gpu),
    }
