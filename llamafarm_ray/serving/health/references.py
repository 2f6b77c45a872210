"""References of versions below the home: what their requests are compared with, kept from the first look on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from typing import Any, Final

from llamafarm_ray.errors import InputError, StorageError
from llamafarm_ray.serving.health.looks import Health, Plan, examine
from llamafarm_ray.serving.journal.sketch import Sketch
from llamafarm_ray.storage import Location

__all__ = ["References"]

_FOLDER: Final = "references"


class References:
    """The references in a home, a file for each version."""

    def __init__(self, home: Location) -> None:
        self._home = home

    def examine(self, ref: str, blocks: Iterable[Sketch], plan: Plan) -> Health:
        """Look at a version, and keep its reference once that is whole; a home that can't be written to keeps none.

        Args:
            ref: ``name:version`` or the base's name.
            plan: plan of the looks; each size of a reference has a reference of its own.
        """
        kept = self._read(ref)
        since_s = float(kept.get("since_s", 0.0))
        size = f"{plan.reference_requests} requests, {plan.reference_s:g} s"
        sketches: dict[str, Any] = kept.get("sketches", {})
        known = Sketch.from_dict(sketches[size]) if size in sketches else None
        found = examine((block for block in blocks if block.start_s >= since_s), plan, known=known)
        if known is None and found.is_reference_whole:
            sketches = {**sketches, size: found.reference.to_dict()}
            with contextlib.suppress(StorageError):
                self._write(ref, {"since_s": since_s, "sketches": sketches})
        return found

    def begin(self, ref: str, since_s: float) -> None:
        """Begin a new reference with the requests after a time, seconds since 1970.

        Raises:
            StorageError: it could not be kept.
        """
        self._write(ref, {"since_s": since_s, "sketches": {}})

    def _read(self, ref: str) -> dict[str, Any]:
        """Return a version's file.

        Raises:
            InputError: it is damaged.
        """
        try:
            values = json.loads(self._home.read(_name(ref)))
        except FileNotFoundError:
            return {}
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise InputError(
                f"{self._home.uri}/{_name(ref)} is damaged.", hint="Remove it: the next look makes it anew."
            )
        return values

    def _write(self, ref: str, values: dict[str, object]) -> None:
        self._home.write(_name(ref), json.dumps(values).encode())


def _name(ref: str) -> str:
    return f"{_FOLDER}/{ref.replace(':', '/')}.json"
