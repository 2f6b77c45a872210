"""Loading adapters into an engine: each version once, however many requests ask for it at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from llamafarm_ray.serving.resolution import Target
from llamafarm_ray.serving.tracing import Tracing

__all__ = ["AdapterEngine", "AdapterLoader"]


class AdapterEngine(Protocol):
    """What an engine must do to serve adapters."""

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Make the adapter in ``folder`` answer to ``name``."""


class AdapterLoader:
    """Sees to it that a target's adapter is in the engine.

    Args:
        engine: where adapters are loaded.
        pull: gives the verified local folder of a target with a digest; may block.
        on_load: called with the ``name:version`` of each adapter that the engine was given.
        tracing: where spans of loads go.
    """

    def __init__(
        self,
        engine: AdapterEngine,
        pull: Callable[[Target], Path],
        on_load: Callable[[str], object] = lambda _: None,
        tracing: Tracing | None = None,
    ) -> None:
        self._engine = engine
        self._tracing = tracing or Tracing()
        self._pull = pull
        self._on_load = on_load
        self._loads: dict[str, asyncio.Task[None]] = {}
        self.num_loads: Counter[str] = Counter()
        """How often each engine name was loaded."""

    @property
    def loaded(self) -> list[str]:
        """The engine names that are ready, sorted."""
        return sorted(name for name, task in self._loads.items() if task.done())

    async def ensure(self, target: Target) -> None:
        """Return once the target can answer. Concurrent callers share one load; a failed load is tried anew.

        Raises:
            LlamaFarmError: its files can't be had or are not what was registered.
        """
        if target.digest is None:
            return
        task = self._loads.get(target.engine_name)
        if task is None:
            task = asyncio.create_task(self._load(target))
            self._loads[target.engine_name] = task
            task.add_done_callback(lambda done: self._forget_failure(target.engine_name, done))
        await asyncio.shield(task)  # one caller going away does not take the load from the others

    async def _load(self, target: Target) -> None:
        self.num_loads[target.engine_name] += 1
        with self._tracing.step("load adapter", target):
            with self._tracing.step("pull adapter", target):
                folder = await asyncio.to_thread(self._pull, target)
            await self._engine.load_adapter(target.engine_name, folder)
        self._on_load(target.ref)

    def _forget_failure(self, name: str, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._loads.pop(name, None)
