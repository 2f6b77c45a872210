"""Limits of a cluster's autoscaler, read on the cluster's head.

Ray lists running machines to drivers. Only the autoscaler has the list of machines that it may start: `ray up` gives it
a file, which the command line of its process names, and KubeRay a RayCluster, which the head's pod may read.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from llamafarm_ray.config import MemorySize

__all__ = ["Limits", "MachineType", "limits_of_file", "limits_of_ray_cluster", "read_limits"]

_MONITOR = "monitor.py"
_CONFIG = "--autoscaling-config="
_GCS = "--gcs-address="
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_ASK_S = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MachineType:
    """A kind of machine that an autoscaler starts.

    Args:
        resources: of one machine, as Ray counts them.
        most: machines of this kind that may run at once.
    """

    resources: Mapping[str, float]
    most: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Machines that an autoscaler may start, beside the head.

    Args:
        most: machines of all kinds that may run at once; None: no limit but those of the kinds.
    """

    types: tuple[MachineType, ...] = ()
    most: int | None = None


def read_limits(gcs_address: str) -> Limits:
    """Return the limits of the autoscaler of a Ray whose head is this machine; without an autoscaler, none.

    Args:
        gcs_address: control address of the Ray; one machine may have several.
    """
    try:
        if (config := _config_file(gcs_address)) is not None:
            return limits_of_file(yaml.safe_load(config.read_text(encoding="utf-8")))
        if (_ACCOUNT / "token").is_file() and (name := os.environ.get("RAY_CLUSTER_NAME")):
            return limits_of_ray_cluster(_ray_cluster(name))
    except (OSError, httpx.HTTPError, yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError) as error:
        _log.warning("The autoscaler's limits can't be read (%s): machines that run count alone.", error)
    return Limits()


def limits_of_file(config: Mapping[str, Any]) -> Limits:
    """Return the limits in a configuration of `ray up`, as the head has it: with the resources of every type."""
    most = int(config.get("max_workers", 0))
    types = [
        MachineType(dict(found["resources"]), min(most, int(found.get("max_workers", most))))
        for name, found in (config.get("available_node_types") or {}).items()
        if name != config.get("head_node_type") and found.get("resources")
    ]
    return Limits(tuple(one for one in types if one.most > 0), most)


def limits_of_ray_cluster(manifest: Mapping[str, Any]) -> Limits:
    """Return the limits in a RayCluster of KubeRay; none where its autoscaler is off."""
    spec = manifest["spec"]
    if not spec.get("enableInTreeAutoscaling"):
        return Limits()
    groups = [group for group in spec.get("workerGroupSpecs") or [] if not group.get("suspend")]
    types = (
        MachineType(_group_resources(group), int(group.get("maxReplicas", 0)) * int(group.get("numOfHosts") or 1))
        for group in groups
    )
    return Limits(tuple(one for one in types if one.most > 0 and one.resources))


def _group_resources(group: Mapping[str, Any]) -> dict[str, float]:
    """Return what Ray counts on a pod: its container's limits, unless its start names other numbers."""
    given = group["template"]["spec"]["containers"][0].get("resources") or {}
    limits = {**(given.get("requests") or {}), **(given.get("limits") or {})}
    start = group.get("rayStartParams") or {}
    found = dict(_counted(limits))
    for resource, name in (("CPU", "num-cpus"), ("GPU", "num-gpus"), ("memory", "memory")):
        if name in start:
            found[resource] = float(start[name])
    return found


def _counted(limits: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    for name, quantity in limits.items():
        text = str(quantity)
        if name == "cpu":
            yield "CPU", float(math.ceil(float(text[:-1]) / 1000 if text.endswith("m") else float(text)))
        elif name == "memory":
            yield "memory", float(MemorySize.parse(text).num_bytes)
        elif name.endswith("gpu"):
            yield "GPU", float(text)


def _config_file(gcs_address: str) -> Path | None:
    """Return the file that the autoscaler of a Ray was started with; None without one."""
    port = gcs_address.rpartition(":")[2]
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if not any(word.endswith(_MONITOR) for word in words[:4]):
            continue
        options = {name: word.removeprefix(name) for name in (_CONFIG, _GCS) for word in words if word.startswith(name)}
        if options.get(_GCS, "").rpartition(":")[2] == port and options.get(_CONFIG):
            return Path(options[_CONFIG]).expanduser()
    return None


def _ray_cluster(name: str) -> dict[str, object]:
    """Return the RayCluster of the pod that this process is in."""
    namespace, token = ((_ACCOUNT / part).read_text(encoding="utf-8").strip() for part in ("namespace", "token"))
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    answer = httpx.get(
        f"https://{host}:{port}/apis/ray.io/v1/namespaces/{namespace}/rayclusters/{name}",
        headers={"Authorization": f"Bearer {token}"},
        verify=str(_ACCOUNT / "ca.crt"),
        timeout=_ASK_S,
        trust_env=False,
    )
    answer.raise_for_status()
    found: dict[str, object] = answer.json()
    return found
