"""Schemas of the project's manifests: KubeRay's, Kubernetes' own, and ours of what those let pass.

Kubernetes' own kinds are held to the strict schemas in the package kubernetes-validate. Ours, by
https://kubernetes.io/docs/reference/kubernetes-api/ and https://prometheus-operator.dev/docs/api-reference/api/, have
names, patterns and choices beside, and the Prometheus operator's kind; a field that is not here is a mistake, or is to
be added here after a look there. Pods are held to the template in KubeRay's schema, which has all fields of one.
"""

from __future__ import annotations

import jsonschema
import kuberay
import kubernetes_validate

__all__ = ["validate"]

RELEASES = ("1.31", "1.37")
"""The oldest and the newest release of Kubernetes that manifests are held to."""
_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_COUNT = {"type": "integer", "minimum": 0}
_NAME = {"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}


def _object(required=(), **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        "minProperties": 0,
    }


def _list(items, **more):
    return {"type": "array", "items": items, **more}


_METADATA = _object(["name"], name=_NAME, namespace=_NAME, labels=_TEXTS, annotations=_TEXTS)
_EXPRESSION = _object(
    ["key", "operator"],
    key=_TEXT,
    operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
    values=_list(_TEXT, minItems=1),
)
_SELECTOR = _object(matchLabels=_TEXTS, matchExpressions=_list(_EXPRESSION, minItems=1))
_PORT = _object(port={"type": ["integer", "string"]}, protocol={"enum": ["TCP", "UDP", "SCTP"]}, endPort=_COUNT)
_PEER = _object(podSelector=_SELECTOR, namespaceSelector=_SELECTOR, ipBlock=_object(["cidr"], cidr=_TEXT))
_RELABELING = _object(
    action={"enum": ["replace", "keep", "drop", "labelmap"]},
    sourceLabels=_list(_TEXT),
    targetLabel=_TEXT,
    regex=_TEXT,
    replacement=_TEXT,
)


def _pod():
    group = kuberay.schema("RayService")["properties"]["spec"]["properties"]["rayClusterConfig"]["properties"]
    template = group["headGroupSpec"]["properties"]["template"]
    return {**template, "properties": {**template["properties"], "metadata": _object(labels=_TEXTS)}}


_KINDS = {
    "ConfigMap": lambda: ("v1", {"data": {**_TEXTS, "propertyNames": {"pattern": r"^[-._a-zA-Z0-9]+$"}}}),
    "NetworkPolicy": lambda: (
        "networking.k8s.io/v1",
        {
            "spec": _object(
                ["podSelector"],
                podSelector=_SELECTOR,
                policyTypes=_list({"enum": ["Ingress", "Egress"]}),
                ingress=_list(_object(**{"from": _list(_PEER), "ports": _list(_PORT)})),
                egress=_list(_object(to=_list(_PEER), ports=_list(_PORT))),
            )
        },
    ),
    "PodDisruptionBudget": lambda: (
        "policy/v1",
        {
            "spec": _object(["selector"], selector=_SELECTOR, maxUnavailable=_COUNT, minAvailable=_COUNT)
            | {"oneOf": [{"required": ["maxUnavailable"]}, {"required": ["minAvailable"]}]}
        },
    ),
    "PodMonitor": lambda: (
        "monitoring.coreos.com/v1",
        {
            "spec": _object(
                ["selector", "podMetricsEndpoints"],
                selector=_SELECTOR,
                podMetricsEndpoints=_list(
                    _object(
                        port=_TEXT,
                        path=_TEXT,
                        interval={"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"},
                        relabelings=_list(_RELABELING),
                    ),
                    minItems=1,
                ),
            )
        },
    ),
    "CronJob": lambda: (
        "batch/v1",
        {
            "spec": _object(
                ["schedule", "jobTemplate"],
                schedule={"type": "string", "pattern": r"^(\S+ ){4}\S+$"},
                timeZone=_TEXT,
                concurrencyPolicy={"enum": ["Allow", "Forbid", "Replace"]},
                startingDeadlineSeconds=_COUNT,
                successfulJobsHistoryLimit=_COUNT,
                failedJobsHistoryLimit=_COUNT,
                suspend={"type": "boolean"},
                jobTemplate=_object(
                    ["spec"],
                    spec=_object(
                        ["template"],
                        backoffLimit=_COUNT,
                        activeDeadlineSeconds=_COUNT,
                        ttlSecondsAfterFinished=_COUNT,
                        template=_pod(),
                    ),
                ),
            )
        },
    ),
}


def validate(manifest):
    """Hold a manifest to the schema of its kind; one of Ray's to KubeRay's."""
    if manifest["apiVersion"].startswith("ray.io/"):
        kuberay.validate(manifest)
        return
    assert manifest["kind"] in _KINDS, f"no schema of {manifest['kind']}: write one"
    version, properties = _KINDS[manifest["kind"]]()
    schema = _object(
        ["metadata", *properties], apiVersion={"const": version}, kind={}, metadata=_METADATA, **properties
    )
    jsonschema.Draft202012Validator(schema).validate(manifest)
    for release in RELEASES if manifest["kind"] != "PodMonitor" else ():
        kubernetes_validate.validate(manifest, release, strict=True)
