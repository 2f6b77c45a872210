"""Kubernetes resources, as far as this project writes or reads them.

The fields of KubeRay's are those of ``ray.io/v1``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

__all__ = [
    "Container",
    "PodSpec",
    "PodTemplate",
    "RayCluster",
    "Resource",
    "ServiceStatus",
    "Status",
    "WorkerGroup",
]


class Metadata(TypedDict, total=False):
    """Name and labels of a resource."""

    name: str
    labels: dict[str, str]
    annotations: dict[str, str]
    generation: int


class Condition(TypedDict, total=False):
    """A condition in a resource's status."""

    type: str
    status: str
    reason: str
    message: str
    observedGeneration: int


class ServeApplication(TypedDict, total=False):
    """Status of a Serve application."""

    status: str
    message: str


class ServiceStatus(TypedDict, total=False):
    """Status of one cluster of a RayService."""

    rayClusterName: str
    applicationStatuses: dict[str, ServeApplication]


class Status(TypedDict, total=False):
    """Status of a RayJob or RayService."""

    jobDeploymentStatus: str
    jobStatus: str
    message: str
    reason: str
    conditions: list[Condition]
    observedGeneration: int
    pendingServiceStatus: ServiceStatus
    activeServiceStatus: ServiceStatus


class Resource(TypedDict, total=False):
    """A ConfigMap, RayJob or RayService."""

    apiVersion: str
    kind: str
    metadata: Metadata
    data: dict[str, str]
    spec: Mapping[str, object]
    status: Status


class Container(TypedDict):
    """A container of a pod."""

    name: str
    image: str
    command: NotRequired[list[str]]
    resources: dict[str, dict[str, str]]
    env: list[dict[str, str]]
    envFrom: NotRequired[list[dict[str, object]]]
    securityContext: dict[str, object]
    volumeMounts: list[dict[str, str]]
    ports: NotRequired[list[dict[str, object]]]


class Volume(TypedDict):
    """A volume of a pod: an empty folder, or the files of a ConfigMap."""

    name: str
    emptyDir: NotRequired[dict[str, str]]
    configMap: NotRequired[dict[str, str]]


class PodSpec(TypedDict):
    """The pod of a template."""

    terminationGracePeriodSeconds: int
    automountServiceAccountToken: bool
    restartPolicy: NotRequired[str]
    securityContext: dict[str, object]
    containers: list[Container]
    volumes: list[Volume]
    tolerations: NotRequired[list[dict[str, str]]]


class PodTemplate(TypedDict):
    """The template of pods."""

    metadata: dict[str, dict[str, str]]
    spec: PodSpec


class HeadGroup(TypedDict):
    """The head of a Ray cluster."""

    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(TypedDict):
    """A group of equal workers of a Ray cluster."""

    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int
    rayStartParams: dict[str, str]
    template: PodTemplate


class RayCluster(TypedDict):
    """A Ray cluster in a RayJob or RayService."""

    enableInTreeAutoscaling: NotRequired[bool]
    rayVersion: str
    authOptions: dict[str, str]
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]
