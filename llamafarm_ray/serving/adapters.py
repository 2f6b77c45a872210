"""What loading adapters takes: an engine, files, room, and somebody who is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from llamafarm_ray.serving.resolution import Target

__all__ = ["AdapterEngine", "AdapterFiles", "AdapterWatch", "Room", "UnloadReason"]

UnloadReason = Literal["room", "unneeded"]
"""Why an adapter was unloaded: for another one, or because nothing needs it any more."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many adapters an engine has room for.

    Attributes:
        in_use: different ones that requests use at the same time, beside a spare one.
        loaded: those that are kept in its memory, in use or not; more than ``in_use``.
        wait_s: seconds that a request waits at most until fewer are in use.
    """

    in_use: int = 4
    loaded: int = 20
    wait_s: float = 60.0


class AdapterEngine(Protocol):
    """What an engine must do to serve adapters."""

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Make the adapter in ``folder`` answer to ``name``."""

    async def unload_adapter(self, name: str) -> None:
        """Free the adapter; raises where that can't be done now. One that is not loaded is fine."""


class AdapterFiles(Protocol):
    """Where adapters' files come from."""

    async def pull(self, target: Target) -> Path:
        """The verified local folder of a target with a digest, which stays until it is released."""

    def release(self, target: Target) -> None:
        """End what one :meth:`pull` began."""


class AdapterWatch(Protocol):
    """Who is told of loads; ``ref`` is ``name:version``, ``num_loaded`` how many there are now."""

    def loaded(self, ref: str, num_loaded: int) -> None:
        """An adapter was loaded."""

    def unloaded(self, ref: str, num_loaded: int, reason: UnloadReason) -> None:
        """An adapter was unloaded."""
