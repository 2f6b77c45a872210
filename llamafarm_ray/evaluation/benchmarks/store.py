"""Stored results of benchmarks, by the digests of everything that they depend on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from llamafarm_ray.errors import StorageError
from llamafarm_ray.evaluation.benchmarks.digests import Inputs
from llamafarm_ray.storage import Location

__all__ = ["ResultStore"]

_FOLDER = "benchmarks"


@dataclass(frozen=True, slots=True)
class ResultStore:
    """Results below a home.

    A path or a name is no part of the key: new weights at an old path are other weights, and moved ones are the same.

    Args:
        home: where they are kept.
    """

    home: Location

    def find(self, inputs: Inputs) -> dict[str, Any] | None:
        """Return the stored scores of equal inputs; None if there are none, or they can't be read."""
        name = _name(inputs)
        if not self.home.exists(name):
            return None
        try:
            stored = json.loads(self.home.read(name))
        except (StorageError, ValueError):
            return None
        scores = stored.get("scores") if isinstance(stored, dict) and stored.get("inputs") == asdict(inputs) else None
        return scores if isinstance(scores, dict) else None

    def keep(self, inputs: Inputs, scores: dict[str, Any]) -> None:
        """Store scores."""
        text = json.dumps({"inputs": asdict(inputs), "scores": scores}, indent=1, sort_keys=True)
        self.home.write(_name(inputs), text.encode())


def _name(inputs: Inputs) -> str:
    return f"{_FOLDER}/{inputs.key.removeprefix('sha256:')}.json"
