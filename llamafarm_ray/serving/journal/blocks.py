"""Sketches of all versions in blocks of 50 requests, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from llamafarm_ray.errors import InputError
from llamafarm_ray.serving.journal.sketch import Observation, Sketch

__all__ = ["BLOCK_REQUESTS", "OTHER_VERSIONS", "Blocks", "read_blocks"]

BLOCK_REQUESTS: Final = 50
_BLOCK_S: Final = 3600.0
_MAX_BLOCKS: Final = 2000
_MAX_VERSIONS: Final = 500
_FINE: Final = 20
"""The latest blocks of a version, which stay as they are when others are joined."""
OTHER_VERSIONS: Final = "other"
"""The name that versions beyond the first 500 are counted under."""


class Blocks:
    """Counts requests by version. A block ends with its 50th request, or after an hour.

    Beyond 2,000 blocks, neighbors of the version with the most are joined; the latest 20 stay fine.

    Args:
        max_versions: versions with blocks of their own; the others share some.
    """

    def __init__(self, *, max_blocks: int = _MAX_BLOCKS, max_versions: int = _MAX_VERSIONS) -> None:
        self._max_blocks = max_blocks
        self._max_versions = max_versions
        self._versions: dict[str, list[Sketch]] = {}

    def add(self, ref: str, seen: Observation, now_s: float) -> None:
        """Count a request.

        Args:
            ref: ``name:version`` or the base's name.
            now_s: time of its end, seconds since 1970.
        """
        self._block(ref, now_s).add(seen, now_s)

    def rate(self, ref: str, rating: float, now_s: float) -> None:
        """Count a user's rating of an answer."""
        self._block(ref, now_s).rate(rating, now_s)

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return sum(map(len, self._versions.values()))

    def of(self, ref: str) -> list[Sketch]:
        """Return the blocks of a version, the oldest first."""
        return list(self._versions.get(ref, ()))

    def _block(self, ref: str, now_s: float) -> Sketch:
        if ref not in self._versions and len(self._versions) >= self._max_versions:
            ref = OTHER_VERSIONS
        blocks = self._versions.setdefault(ref, [])
        last = blocks[-1] if blocks else None
        if last is None or last.num_requests >= BLOCK_REQUESTS or now_s - last.start_s >= _BLOCK_S:
            blocks.append(Sketch())
            if self.num_blocks > self._max_blocks:
                self._join()
        return blocks[-1]

    def _join(self) -> None:
        """Join neighbors of the version with the most blocks."""
        ref = max(self._versions, key=lambda one: len(self._versions[one]))
        blocks = self._versions[ref]
        num_old = max(0, len(blocks) - _FINE) or len(blocks) - 1
        old, fine = blocks[:num_old], blocks[num_old:]
        joined = [sum(old[at + 1 : at + 2], old[at]) for at in range(0, len(old), 2)]
        blocks[:] = [*joined, *fine]

    def to_json(self) -> str:
        """Return the blocks by version as JSON."""
        versions = (
            f"{json.dumps(ref)}:[{','.join(block.to_json() for block in blocks)}]"
            for ref, blocks in self._versions.items()
        )
        return f"{{{','.join(versions)}}}"


def read_blocks(values: Mapping[str, Any]) -> dict[str, list[Sketch]]:
    """Read the plain values of :meth:`Blocks.to_json`.

    Raises:
        InputError: they are not such.
    """
    try:
        return {str(ref): [Sketch.from_dict(block) for block in blocks] for ref, blocks in values.items()}
    except (AttributeError, TypeError) as error:
        raise InputError(f"These values are no blocks: {error!r}.") from None
