"""A Kubernetes API server on loopback: discovery, and as many verbs as `kubectl apply` and `kubectl get` use."""

from __future__ import annotations

import itertools
import json
from contextlib import contextmanager
from urllib.parse import urlsplit

from http_server import QuietHandler, http_server

__all__ = ["serving"]

_KINDS = {"v1": {"configmaps": "ConfigMap"}, "ray.io/v1": {"rayjobs": "RayJob", "rayservices": "RayService"}}
_GROUP = {"groupVersion": "ray.io/v1", "version": "v1"}


def _resources(version):
    resources = [
        {
            "name": name,
            "singularName": kind.lower(),
            "namespaced": True,
            "kind": kind,
            "verbs": ["create", "delete", "get", "patch"],
        }
        for name, kind in _KINDS[version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _openapi(version):
    """Paths that say to kubectl that the server itself checks fields."""
    group, _, number = version.rpartition("/")
    paths = {
        f"/{name}": {
            "patch": {
                "parameters": [{"name": "fieldValidation", "in": "query"}],
                "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
                "responses": {},
            }
        }
        for name, kind in _KINDS[version].items()
    }
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.32"}, "paths": paths}


_STATIC = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [{"name": "ray.io", "versions": [_GROUP], "preferredVersion": _GROUP}],
    },
    "/api/v1": _resources("v1"),
    "/apis/ray.io/v1": _resources("ray.io/v1"),
    "/openapi/v3": {
        "paths": {
            "api/v1": {"serverRelativeURL": "/openapi/v3/api/v1"},
            "apis/ray.io/v1": {"serverRelativeURL": "/openapi/v3/apis/ray.io/v1"},
        }
    },
    "/openapi/v3/api/v1": _openapi("v1"),
    "/openapi/v3/apis/ray.io/v1": _openapi("ray.io/v1"),
}


@contextmanager
def serving(kubeconfig, statuses=()):
    """Serve for the time of a block; gives what was created, by kind.

    Args:
        kubeconfig: the file to write, with which kubectl finds the server.
        statuses: that each read of a RayJob or RayService shows in turn; the last one stays. A list may be changed.
    """
    created, left = {}, statuses if isinstance(statuses, list) else list(statuses)
    numbers = itertools.count(1)

    class Handler(QuietHandler):
        def do_GET(self):
            path = urlsplit(self.path).path
            *_, resource, name = path.split("/")
            found = _STATIC.get(path) or created.get(_kind(resource))
            if found is None or (path not in _STATIC and found["metadata"]["name"] != name):
                found = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            elif found.get("kind") in {"RayJob", "RayService"} and left:
                found["status"] = left.pop(0) if len(left) > 1 else left[0]
            self._answer(404 if found.get("code") == 404 else 200, found)

        def do_POST(self):
            made = json.loads(self.read_body())
            made["metadata"] |= {"uid": f"uid-{next(numbers)}", "generation": 1}
            made["metadata"]["resourceVersion"] = str(next(numbers))
            created[made["kind"]] = made
            self._answer(201, made)

        def do_PATCH(self):
            *_, resource, _ = urlsplit(self.path).path.split("/")
            before = created[_kind(resource)]
            made = _merged(before, json.loads(self.read_body()))
            made["metadata"]["generation"] += made.get("spec") != before.get("spec")
            made["metadata"]["resourceVersion"] = str(next(numbers))
            created[made["kind"]] = made
            self._answer(200, made)

        def do_DELETE(self):
            *_, resource, _ = urlsplit(self.path).path.split("/")
            self.read_body()
            created.pop(_kind(resource))
            self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

        def _answer(self, status, body):
            self.reply(status, json.dumps(body).encode(), Content_Type="application/json")

    with http_server(Handler) as url:
        described = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
            "users": [{"name": "test", "user": {}}],
            "current-context": "test",
        }
        kubeconfig.write_text(json.dumps(described))
        yield created


def _merged(before, patch):
    """Return an object after a JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    made = dict(before) if isinstance(before, dict) else {}
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = _merged(made.get(name), value)
    return made


def _kind(resource):
    return next((kinds[resource] for kinds in _KINDS.values() if resource in kinds), None)
