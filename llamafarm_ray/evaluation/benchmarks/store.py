"""Stored results of benchmarks, by the digests of everything that they depend on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from llamafarm_ray.errors import StorageError
from llamafarm_ray.evaluation.benchmarks.digests import Inputs
from llamafarm_ray.evaluation.item_scores import ItemScores
from llamafarm_ray.evaluation.kept import KeptBatches
from llamafarm_ray.evaluation.result import BenchmarkScores
from llamafarm_ray.storage import Location

__all__ = ["ResultStore"]

_FOLDER = "benchmarks"
_CHUNKS = "benchmark-answers"


@dataclass(frozen=True, slots=True)
class ResultStore:
    """Results below a home.

    A path or a name is no part of the key: new weights at an old path are other weights, and moved ones are the same.

    Args:
        home: folder or bucket of the results.
    """

    home: Location

    def find(self, inputs: Inputs) -> BenchmarkScores | None:
        """Return the stored scores of equal inputs; None if there are none, or they can't be read.

        Scores that an earlier release stored without those of each question are none.
        """
        name = _name(inputs)
        if not self.home.exists(name):
            return None
        try:
            stored = json.loads(self.home.read(name))
            if stored["inputs"] != asdict(inputs):
                return None
            items = ItemScores.from_dict(stored["items"])
            return replace(BenchmarkScores.from_dict(stored["scores"]), items=items)
        except (StorageError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def keep(self, inputs: Inputs, scores: BenchmarkScores) -> None:
        """Store scores, with those of each question."""
        items = (scores.items or ItemScores()).to_dict()
        text = json.dumps({"inputs": asdict(inputs), "scores": scores.to_dict(), "items": items}, sort_keys=True)
        self.home.write(_name(inputs), text.encode())

    def chunks(self, inputs: Inputs) -> KeptBatches:
        """Return the store of answers of one benchmark that is not done yet."""
        return KeptBatches(self.home, f"{_CHUNKS}/{inputs.key.removeprefix('sha256:')}")


def _name(inputs: Inputs) -> str:
    return f"{_FOLDER}/{inputs.key.removeprefix('sha256:')}.json"
