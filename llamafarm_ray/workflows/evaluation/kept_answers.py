"""Answers of servers on disk until an evaluation is done, so that one that was killed continues."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from llamafarm_ray.errors import StorageError
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest

__all__ = ["KeptAnswers"]

_LONGEST_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class KeptAnswers:
    """Answers by their requests. They are cleared when the evaluation is done, and a day old ones are not used.

    A server may hold other documents or another model tomorrow, so no later evaluation gets these answers.

    Args:
        home: folder or bucket of the answers.
    """

    home: Location
    folder: str

    def find(self, request: Mapping[str, object]) -> Any:
        """Return the answer to a request; None if there is none, it is old, or it can't be read."""
        name = self._name(request)
        try:
            if not self.home.exists(name):
                return None
            kept = json.loads(self.home.read(name))
            return kept["answer"] if 0 <= time.time() - kept["time"] < _LONGEST_S else None
        except (StorageError, ValueError, KeyError, TypeError):
            return None

    def keep(self, request: Mapping[str, object], answer: object) -> None:
        """Store an answer."""
        self.home.write(self._name(request), json.dumps({"time": time.time(), "answer": answer}).encode())

    def clear(self) -> None:
        """Remove all answers: the evaluation is done."""
        for file in list(self.home.walk(self.folder)):
            self.home.remove(file.name)

    def _name(self, request: Mapping[str, object]) -> str:
        digest = Digest.of(json.dumps(request, sort_keys=True).encode())
        return f"{self.folder}/{digest.removeprefix('sha256:')}.json"
