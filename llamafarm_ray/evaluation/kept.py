"""Answers of an evaluation under way, so that a killed one resumes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from llamafarm_ray.errors import StorageError
from llamafarm_ray.evaluation.benchmarks.digests import digest_of
from llamafarm_ray.storage import Location

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["KeptBatches", "kept_or_made"]

_Answer = TypeVar("_Answer", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class KeptBatches:
    """Answers to batches of requests. A batch is kept whole: in another one an answer may have other last digits.

    Args:
        home: folder or bucket.
        folder: of one evaluation; its name is a digest of all inputs that the answers depend on.
        weights: digest of the model that answers; empty where the folder is one model's.
    """

    home: Location
    folder: str
    weights: str = ""

    def of(self, weights: str) -> KeptBatches:
        """Return the answers of another model in the same evaluation."""
        return replace(self, weights=weights)

    def find(self, batch: object) -> list[Any] | None:
        """Return the answers to an equal batch; None if there are none, or they can't be read.

        Args:
            batch: the requests, with everything that decides their answers.
        """
        name = self._name(batch)
        try:
            answers = json.loads(self.home.read(name)) if self.home.exists(name) else None
        except (StorageError, FileNotFoundError, ValueError):
            return None
        return answers if isinstance(answers, list) else None

    def keep(self, batch: object, answers: list[object]) -> None:
        """Store answers. Where that fails they are asked for again."""
        with contextlib.suppress(StorageError):
            self.home.write(self._name(batch), json.dumps(answers).encode())

    def clear(self) -> None:
        """Remove the answers of all models: the evaluation is done."""
        with contextlib.suppress(StorageError):  # a home that is read-only keeps none
            for file in list(self.home.walk(self.folder)):
                self.home.remove(file.name)

    def _name(self, batch: object) -> str:
        plain = asdict(batch) if is_dataclass(batch) and not isinstance(batch, type) else batch
        digest = digest_of([self.weights, plain])
        return f"{self.folder}/{digest.removeprefix('sha256:')}.json"


def kept_or_made(
    kept: KeptBatches | None, batch: list[Any], kind: type[_Answer], number: int, make: Callable[[], list[_Answer]]
) -> list[_Answer]:
    """Return the kept answers to a batch, or make them and keep them.

    Args:
        kept: answers of an evaluation that was killed; None keeps none.
        batch: the requests, with everything that decides their answers.
        kind: class of an answer, whose fields are plain values.
        number: answers to the batch; another number of kept ones is not used.
        make: makes the answers.
    """
    known = kept.find(batch) if kept is not None else None
    if known is not None and len(known) == number:
        return [kind(*one) for one in known]
    made = make()
    if kept is not None:
        kept.keep(batch, [list(astuple(one)) for one in made])
    return made
