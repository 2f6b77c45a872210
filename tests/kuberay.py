"""KubeRay's schemas of its resources, where they lie beside the checkout or in the tests' data."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

__all__ = ["ROOT", "schema", "strict", "validate"]

ROOT = Path(__file__).parents[1]
_BESIDE = ROOT.parent / "shared" / "kuberay-schemas"
_SERVICE = ROOT / "tests" / "unit" / "workflows" / "data" / "rayservice.v1.schema.json"


def strict(loose):
    """The schema without unknown fields, as ``kubectl`` has it: the API server itself drops them in silence."""
    if isinstance(loose, list):
        return [strict(one) for one in loose]
    if not isinstance(loose, dict):
        return loose
    made = {key: strict(value) for key, value in loose.items()}
    if isinstance(made.get("properties"), dict) and "type" in made:
        made.setdefault("additionalProperties", bool(made.get("x-kubernetes-preserve-unknown-fields")))
    return made


def schema(kind):
    """KubeRay's schema of a kind, strict; skip the test where there is none."""
    if kind == "RayService":
        return strict(json.loads(_SERVICE.read_text(encoding="utf-8")))
    path = _BESIDE / f"{kind}.v1.schema.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return strict(json.loads(path.read_text(encoding="utf-8")))


def validate(manifest):
    """Hold a manifest of ``ray.io/v1`` to KubeRay's schema; skip the test where there is none of its kind."""
    assert manifest["apiVersion"] == "ray.io/v1"
    known = schema(manifest["kind"])
    known["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, which the schemas leave open
    jsonschema.Draft202012Validator(known).validate(manifest)
