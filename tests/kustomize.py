"""Resolution of the project's kustomize overlays: resources, namespace, images and JSON patches, as kustomize."""

from __future__ import annotations

import copy

import yaml

__all__ = ["build"]

_KEYS = {"apiVersion", "kind", "resources", "namespace", "images", "patches"}


def build(folder):
    """The manifests of a folder with a ``kustomization.yaml``; what it has that is not understood here is an error."""
    described = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert set(described) <= _KEYS, set(described) - _KEYS
    manifests = []
    for name in described["resources"]:
        path = folder / name
        # Dumped and read again, since YAML's anchors would have two places of a manifest share one value.
        read = build(path) if path.is_dir() else yaml.safe_load_all(path.read_text(encoding="utf-8"))
        manifests += copy_apart(list(read))
    for patch in described.get("patches", []):
        found = [one for one in manifests if _is_target(one, patch["target"])]
        assert found, f"no {patch['target']} to patch"
        for one in found:
            for operation in yaml.safe_load(patch["patch"]):
                _apply(one, operation)
    for manifest in manifests:
        if "namespace" in described:
            manifest["metadata"]["namespace"] = described["namespace"]
        for image in described.get("images", []):
            _set_image(manifest, image)
    return manifests


def copy_apart(value):
    """A deep copy in which no two places share a value."""
    if isinstance(value, dict):
        return {key: copy_apart(one) for key, one in value.items()}
    return [copy_apart(one) for one in value] if isinstance(value, list) else copy.copy(value)


def _is_target(manifest, target):
    return manifest["kind"] == target["kind"] and manifest["metadata"]["name"] == target["name"]


def _apply(manifest, operation):
    """One operation of https://www.rfc-editor.org/rfc/rfc6902."""
    *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    place = manifest
    for part in path:
        place = place[int(part)] if isinstance(place, list) else place[part]
    key = int(last) if isinstance(place, list) else last
    if operation["op"] in {"remove", "replace"}:
        assert key < len(place) if isinstance(place, list) else key in place, operation
    if operation["op"] == "remove":
        del place[key]
    else:
        assert operation["op"] in {"add", "replace"}
        assert operation["op"] == "replace" or not isinstance(place, list)
        place[key] = operation["value"]


def _set_image(value, image):
    if isinstance(value, list):
        for one in value:
            _set_image(one, image)
    elif isinstance(value, dict):
        for one in value.values():
            _set_image(one, image)
        if value.get("image") == image["name"]:
            tag = f":{image['newTag']}" if "newTag" in image else f"@{image['digest']}"
            value["image"] = image["newName"] + tag
