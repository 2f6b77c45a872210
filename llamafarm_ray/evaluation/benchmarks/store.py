"""Stored results of benchmarks, by the digests of everything that they depend on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from llamafarm_ray.errors import StorageError
from llamafarm_ray.evaluation.benchmarks.asked import Chunk
from llamafarm_ray.evaluation.benchmarks.digests import Inputs, digest_of
from llamafarm_ray.evaluation.item_scores import ItemScores
from llamafarm_ray.evaluation.result import BenchmarkScores
from llamafarm_ray.storage import Location

__all__ = ["ChunkStore", "ResultStore"]

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

    def chunks(self, inputs: Inputs) -> ChunkStore:
        """Return the store of answers of one benchmark that is not done yet."""
        return ChunkStore(self.home, f"{_CHUNKS}/{inputs.key.removeprefix('sha256:')}")


@dataclass(frozen=True, slots=True)
class ChunkStore:
    """Answers of a benchmark under way, so that a run that was killed goes on.

    Args:
        home: folder or bucket of the chunks.
        folder: of this benchmark; its name is the digest of weights, data, code, template, settings and backend.
    """

    home: Location
    folder: str

    def find(self, chunk: Chunk) -> list[Any] | None:
        """Return the answers to equal requests; None if there are none, or they can't be read."""
        name = self._name(chunk)
        if not self.home.exists(name):
            return None
        try:
            answers = json.loads(self.home.read(name))
        except (StorageError, ValueError):
            return None
        return answers if isinstance(answers, list) else None

    def keep(self, chunk: Chunk, answers: list[Any]) -> None:
        """Store answers."""
        self.home.write(self._name(chunk), json.dumps(answers).encode())

    def clear(self) -> None:
        """Forget all answers: the benchmark's result is stored."""
        for file in list(self.home.walk(self.folder)):
            self.home.remove(file.name)

    def _name(self, chunk: Chunk) -> str:
        digest = digest_of([chunk.kind, chunk.requests, chunk.has_template])
        return f"{self.folder}/{digest.removeprefix('sha256:')}.json"


def _name(inputs: Inputs) -> str:
    return f"{_FOLDER}/{inputs.key.removeprefix('sha256:')}.json"
