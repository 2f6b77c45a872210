"""The protocols of loading adapters: an engine, files, room, and an observer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llamafarm_ray.errors import DeploymentError
from llamafarm_ray.serving.routing.resolution import Target
from llamafarm_ray.serving.telemetry.metrics import UnloadReason

__all__ = ["AdapterEngine", "AdapterFiles", "AdapterWatch", "NotNumbersError", "Room", "TakenOut"]

logger = logging.getLogger(__name__)

_HINT = "Move its alias back, and train it again with a lower learning rate."


@dataclass(frozen=True, slots=True)
class Room:
    """Capacity of an engine for adapters.

    Attributes:
        in_use: different ones that requests use at the same time, beside a spare one.
        loaded: those that are kept in its memory, in use or not; more than ``in_use``.
        wait_s: seconds that a request waits at most until fewer are in use.
    """

    in_use: int = 4
    loaded: int = 20
    wait_s: float = 60.0


class NotNumbersError(DeploymentError):
    """A version computed NaN or infinities instead of an answer."""


class TakenOut:
    """The versions that an engine answers with no more, since they computed NaN."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def add(self, name: str, reason: str) -> NotNumbersError:
        """Take a version out, and return the error for the request that showed it."""
        if name not in self._reasons:
            logger.error("%s is taken out: %s", name, reason)
        self._reasons[name] = reason
        return NotNumbersError(f"{name} is taken out: {reason}", hint=_HINT)

    def check(self, name: str) -> None:
        """Check that a version was not taken out.

        Raises:
            NotNumbersError: it was.
        """
        if name in self._reasons:
            raise NotNumbersError(f"{name} was taken out: {self._reasons[name]}", hint=_HINT)


class AdapterEngine(Protocol):
    """Interface of an engine that serves adapters."""

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Make the adapter in ``folder`` answer to ``name``."""

    def check_adapter(self, name: str) -> None:
        """Do nothing while the adapter can answer; raise where it was taken out."""

    async def unload_adapter(self, name: str) -> None:
        """Free the adapter; raises where that can't be done now. One that is not loaded is fine."""


class AdapterFiles(Protocol):
    """Source of adapters' files."""

    async def pull(self, target: Target) -> Path:
        """The verified local folder of a target with a digest, which stays until it is released."""

    def release(self, target: Target) -> None:
        """End what one :meth:`pull` began."""


class AdapterWatch(Protocol):
    """Observer of loads; ``ref`` is ``name:version``, ``num_loaded`` the number of loaded adapters."""

    def loaded(self, ref: str, num_loaded: int) -> None:
        """An adapter was loaded."""

    def unloaded(self, ref: str, num_loaded: int, reason: UnloadReason) -> None:
        """An adapter was unloaded."""
