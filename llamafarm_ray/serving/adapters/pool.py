"""Adapter pool of an engine: loads adapters on demand, and unloads unused ones or for room.

An adapter's way is from the home to this node's files, checked byte by byte, from there into the engine's memory, and
there into one of the slots that it computes with. This module decides over the first two; an engine with slots moves
what it has loaded in and out of them by itself, which is a copy of memory. See docs/adapters.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.serving.adapters.desired_state import Need
from llamafarm_ray.serving.adapters.protocols import AdapterEngine, AdapterFiles, AdapterWatch, Room
from llamafarm_ray.serving.adapters.slots import AdapterSlots
from llamafarm_ray.serving.routing.resolution import Target
from llamafarm_ray.serving.telemetry.metrics import UnloadReason
from llamafarm_ray.serving.telemetry.tracing import Tracing

__all__ = ["AdapterPool"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_AGAIN_S = 0.5
"""Seconds until an engine that could not unload an adapter is asked again."""
_STRAGGLERS_S = 0.3
"""For how long requests may still come that a router sent to a version before it knew that its alias had moved."""
_TICK_S = 0.001
"""By how much a timer may ring too early."""


@dataclass(slots=True, eq=False)
class _Adapter:
    """An adapter that is loaded or requested."""

    target: Target
    need: Need = Need.NONE
    aliases: frozenset[str] = frozenset()
    """Those that pointed at it when the registry was last looked at."""
    had_need: bool = False
    held_until: float = 0.0
    num_users: int = 0
    """Requests that use it or wait for it."""
    last_used: int = 0
    files: asyncio.Task[Path] | None = None
    loading: asyncio.Task[None] | None = None
    place: Literal["outside", "loaded", "unloading"] = "outside"

    @property
    def is_loaded(self) -> bool:
        return self.place == "loaded"

    @property
    def is_idle(self) -> bool:
        return self.num_users == 0 and self.loading is None

    @property
    def is_wanted_here(self) -> bool:
        """True if requests to its aliases came to this replica, or are expected."""
        return self.is_loaded or not self.is_idle


class AdapterPool:
    """Sees to it that the engine has the adapters that are needed, and not many more.

    Each adapter is loaded once, however many ask for it at the same time. Beyond ``room.loaded`` the least recently
    used one goes, never one in use. One that no alias and no rollout needs any more goes as soon as its last request
    ended; one that is asked for by its version alone stays while there is room.

    Args:
        need: returns the reason to keep a version loaded.
        aliases: returns the versions that a model's aliases point at, of those served here.
        watch: told of loads.
        tracing: tracer of loads.
    """

    def __init__(
        self,
        engine: AdapterEngine,
        files: AdapterFiles,
        room: Room,
        *,
        need: Callable[[Target], Need],
        aliases: Callable[[Target], Mapping[str, Target]] = lambda _: {},
        watch: AdapterWatch,
        tracing: Tracing | None = None,
    ) -> None:
        self._engine = engine
        self._files = files
        self._room = room
        self._need = need
        self._aliases = aliases
        self._watch = watch
        self._tracing = tracing or Tracing()
        self._adapters: dict[str, _Adapter] = {}
        self._slots = AdapterSlots(room.in_use, timeout_s=room.wait_s, is_passing=self._is_passing)
        self._at_engine = asyncio.Lock()
        self._uses = itertools.count(1)
        self._tasks: set[asyncio.Task[object]] = set()
        self._sweeping: asyncio.Task[None] | None = None
        self.num_loads: Counter[str] = Counter()
        """Loads by engine name."""

    @property
    def loaded(self) -> list[str]:
        """The engine names that are ready, sorted."""
        return sorted(adapter.target.engine_name for adapter in self._loaded())

    @contextlib.asynccontextmanager
    async def use(self, target: Target) -> AsyncIterator[None]:
        """Load a target, and keep it ready to answer for the time of the block.

        Concurrent callers share one load; the next caller tries a failed load again.

        Raises:
            LlamaFarmError: its files can't be had or are not what was registered, or the engine refuses it.
            LimitError: too many others were in use for too long.
            NotNumbersError: it was taken out, since it computed NaN.
        """
        if target.digest is None:
            yield
            return
        self._engine.check_adapter(target.engine_name)
        with self._asked(target) as adapter:
            if not adapter.is_loaded:
                await self._pulled(adapter)  # before it takes a slot from others
            async with self._slots.slot(target.engine_name):
                await self._ready(adapter)
                yield

    async def load(self, target: Target, *, hold_s: float = 0.0) -> None:
        """Load a target before the first request for it; requests under way don't wait for that.

        Args:
            hold_s: seconds for which it stays before others, until an alias or a rollout needs it. Then it goes.

        Raises:
            LlamaFarmError: as for :meth:`use`.
        """
        if target.digest is None:
            return
        self._engine.check_adapter(target.engine_name)
        with self._asked(target) as adapter:
            await self._ready(adapter)
            if hold_s > 0 and not adapter.need.is_standing:
                self._hold(adapter, hold_s)

    def registry_changed(self) -> None:
        """Take in the registry's desired state.

        Adapters that it no longer wants are unloaded once their last requests ended. Where an alias left what is loaded
        here, or is being loaded, what it points at now is loaded too: the next request needs it. That holds whatever
        else still needs the one that it left.
        """
        heirs: dict[str, Target] = {}
        for adapter in self._adapters.values():
            self._learn_need(adapter)
            left = self._learn_aliases(adapter)
            if adapter.is_wanted_here:
                heirs |= {heir.engine_name: heir for heir in left}
        for heir in heirs.values():
            known = self._adapters.get(heir.engine_name)
            if known is None or not known.is_loaded:
                self._start(self._inherit(heir))
        self._slots.let_in()
        self._sweep()

    async def _inherit(self, heir: Target) -> None:
        try:
            await self.load(heir)
        except LlamaFarmError as error:  # whoever asks for it is told, too
            logger.warning("%s can't be loaded: %s", heir.ref, error)
        except Exception:  # an engine may raise anything, and nobody waits for this task
            logger.exception("%s can't be loaded.", heir.ref)

    def _learn_need(self, adapter: _Adapter) -> None:
        """Read an adapter's desired state."""
        was_needed, adapter.need = adapter.need.is_standing, self._need(adapter.target)
        if adapter.need.is_standing:
            adapter.had_need, adapter.held_until = True, 0.0
        elif was_needed:
            self._hold(adapter, _STRAGGLERS_S)

    def _learn_aliases(self, adapter: _Adapter) -> list[Target]:
        """See which aliases point at an adapter now; what those point at that did so when this was last asked."""
        before, now = adapter.aliases, self._aliases(adapter.target)
        name = adapter.target.engine_name
        adapter.aliases = frozenset(alias for alias, target in now.items() if target.engine_name == name)
        return [now[alias] for alias in sorted(before - adapter.aliases) if alias in now]

    def _hold(self, adapter: _Adapter, seconds: float) -> None:
        """Keep an adapter for a time, then see whether it has to go."""
        loop = asyncio.get_running_loop()
        adapter.had_need, adapter.held_until = True, loop.time() + seconds
        loop.call_at(adapter.held_until + _TICK_S, self._sweep)

    @contextlib.contextmanager
    def _asked(self, target: Target) -> Iterator[_Adapter]:
        adapter = self._adapters.get(target.engine_name)
        if adapter is None:
            adapter = self._adapters[target.engine_name] = _Adapter(target)
            self._learn_need(adapter)
            self._learn_aliases(adapter)
        adapter.num_users += 1
        try:
            yield adapter
        finally:
            adapter.num_users -= 1
            adapter.last_used = next(self._uses)
            self._settle(adapter)

    async def _pulled(self, adapter: _Adapter) -> Path:
        if adapter.files is None:
            adapter.files = self._start(self._pull(adapter))
            adapter.files.add_done_callback(lambda _: self._settle(adapter))
        return await asyncio.shield(adapter.files)  # one caller going away does not take it from the others

    async def _pull(self, adapter: _Adapter) -> Path:
        try:
            with self._tracing.step("pull adapter", adapter.target):
                return await self._files.pull(adapter.target)
        except BaseException:  # cancelled too: the next request for it pulls anew
            adapter.files = None
            raise

    async def _ready(self, adapter: _Adapter) -> None:
        while not adapter.is_loaded:
            if adapter.loading is None:
                adapter.loading = self._start(self._load(adapter))
            await asyncio.shield(adapter.loading)

    async def _load(self, adapter: _Adapter) -> None:
        target = adapter.target
        try:
            folder = await self._pulled(adapter)
            async with self._at_engine:
                if adapter.is_loaded:  # it could not be unloaded
                    return
                await self._make_room()
                self.num_loads[target.engine_name] += 1
                with self._tracing.step("load adapter", target):
                    await self._engine.load_adapter(target.engine_name, folder)
                adapter.place = "loaded"
            self._watch.loaded(target.ref, len(self._loaded()))
        finally:
            adapter.loading = None
            self._settle(adapter)

    async def _make_room(self) -> None:
        """Unload the least recently used until there is room for one more, as far as that goes."""
        for adapter in self._by_age(self._loaded()):
            if len(self._loaded()) < self._room.loaded:
                return
            if not self._slots.is_taken(adapter.target.engine_name):
                await self._unload(adapter, "room")

    async def _unload(self, adapter: _Adapter, reason: UnloadReason) -> bool:
        """Unload an adapter, and return True if it was unloaded. A request for it meanwhile loads it again."""
        target = adapter.target
        adapter.place = "unloading"
        try:
            await self._engine.unload_adapter(target.engine_name)
        except Exception as error:  # noqa: BLE001 - an engine may raise anything; the adapter is as good as before
            adapter.place = "loaded"
            logger.warning("%s can't be unloaded now: %s", target.engine_name, error)
            return False
        adapter.place = "outside"
        self._watch.unloaded(target.ref, len(self._loaded()), reason)
        self._settle(adapter)
        return True

    def _settle(self, adapter: _Adapter) -> None:
        """Forget an adapter that is neither loaded nor requested; else unload it if it has to go."""
        is_pulling = adapter.files is not None and not adapter.files.done()
        if adapter.place != "outside" or not adapter.is_idle or is_pulling:
            self._sweep()
        elif self._adapters.get(adapter.target.engine_name) is adapter:
            del self._adapters[adapter.target.engine_name]
            if adapter.files is not None:
                self._files.release(adapter.target)

    def _sweep(self) -> None:
        """Start unloading the adapters that have to go, unless that is under way."""
        if self._sweeping is None and self._surplus():
            self._sweeping = self._start(self._unload_surplus())

    async def _unload_surplus(self) -> None:
        try:
            while surplus := self._surplus():
                async with self._at_engine:
                    done = [await self._unload(one, why) for one, why in surplus if one.is_loaded and one.is_idle]
                if not all(done):
                    await asyncio.sleep(_AGAIN_S)
        finally:
            self._sweeping = None

    def _surplus(self) -> list[tuple[_Adapter, UnloadReason]]:
        """The idle adapters that have to go, and why."""
        loaded = self._loaded()
        idle = [adapter for adapter in loaded if adapter.is_idle]
        leaving = [adapter for adapter in idle if self._is_leaving(adapter)]
        num_over = max(0, len(loaded) - len(leaving) - self._room.loaded)
        others = [adapter for adapter in idle if not self._is_leaving(adapter) and not self._is_held(adapter)]
        oldest = self._by_age(others)[:num_over]
        return [*((adapter, "unneeded") for adapter in leaving), *((adapter, "room") for adapter in oldest)]

    def _loaded(self) -> list[_Adapter]:
        return [adapter for adapter in self._adapters.values() if adapter.is_loaded]

    def _by_age(self, adapters: Iterable[_Adapter]) -> list[_Adapter]:
        """Return adapters in the order of their eviction: those a swap needs soon last, requested ones before them."""
        return sorted(adapters, key=lambda one: (self._is_held(one), one.num_users > 0, one.last_used))

    def _is_held(self, adapter: _Adapter) -> bool:
        return adapter.held_until > asyncio.get_running_loop().time()

    def _is_leaving(self, one: _Adapter) -> bool:
        return one.need is Need.GONE or (one.had_need and not one.need.is_standing and not self._is_held(one))

    def _is_passing(self, name: str) -> bool:
        """See :class:`AdapterSlots`."""
        one = self._adapters.get(name)
        return one is not None and (one.need is Need.CANDIDATE or self._is_held(one) or self._is_leaving(one))

    def _start(self, work: Coroutine[object, None, T]) -> asyncio.Task[T]:
        """A task that outlives its callers; what it raises is for those who still wait."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task
