"""The other applications of a registry on the same cluster, whose models a request for ``auto`` can be sent on to.

An application's controller keeps the list, and sends it to its replicas together with the latencies. Serve lists them
with their routes. The controller of each reports its models and latencies. Nobody waits for a look around: until it has
ended, what is known stands, for a minute.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from ray.exceptions import RayError

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.serving.http.asgi import Header
from llamafarm_ray.serving.http.cors import may_read
from llamafarm_ray.serving.routing.traffic_split import Caller
from llamafarm_ray.serving.selection.application_settings import ApplicationSettings
from llamafarm_ray.serving.selection.catalog import ModelCatalog
from llamafarm_ray.serving.selection.latencies import Latencies
from llamafarm_ray.serving.selection.model_selection import Offer
from llamafarm_ray.serving.telemetry.request_statistics import Activity, joined
from llamafarm_ray.types import Digest

__all__ = ["Figures", "Known", "Peer", "PeerDiscovery", "PeerModels"]

logger = logging.getLogger("ray.serve.llamafarm")

_LOOK_S = 5.0
"""Seconds between two looks of a controller for peers."""
_LATE_S = 4.0
"""Timeout in seconds of Serve and of other controllers, which ask their replicas; a later answer is left out."""
_STANDS_S = 60.0
"""Seconds that a look's findings are used while no later look succeeds."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Merged figures of an application's replicas.

    Attributes:
        kinds: the requests that its engine answers (:mod:`.catalog`); empty as long as no replica has said.
    """

    kinds: tuple[str, ...] = ()
    latencies: Latencies = field(default_factory=Latencies)

    @classmethod
    def of(cls, activities: Sequence[Activity], before: Figures) -> Figures:
        """Return the figures of the replicas' reports; the engine's own answer holds for an application without any.

        Args:
            before: figures known until now.
        """
        kinds = next((one.kinds for one in activities if one.kinds), before.kinds)
        return cls(kinds, Latencies.of(joined(activities)))


@dataclass(frozen=True, slots=True)
class Peer:
    """Another application.

    Attributes:
        root: the absolute path that its routes begin with, such as ``/scholar``; empty for the prefix ``/``.
        require_key: True if its requests need a key; ``None``: once the registry has principals.
        allowed_hosts: names in the public DNS, in lower case, that requests without a key may call it by.
        allowed_origins: origins whose web pages may read its answers.
        figures: last figures from its controller.
    """

    application: str
    root: str
    base_name: str
    base_digest: Digest
    require_key: bool | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    figures: Figures = field(default_factory=Figures)

    @classmethod
    def of(cls, application: str, route_prefix: str, settings: ApplicationSettings) -> Peer:
        """One that Serve has, by its settings.

        Raises:
            KeyError, TypeError, AttributeError, InputError: they are not as this release writes them.
        """
        parts = route_prefix.strip("/")
        return cls(
            application,
            f"/{quote(parts)}" if parts else "",
            settings["base_name"],
            Digest(settings["base_digest"]),
            settings["require_key"],
            tuple(name.lower() for name in settings["allowed_hosts"]),
            tuple(settings["allowed_origins"]),
        )


@dataclass(frozen=True, slots=True)
class Known:
    """Figures that a controller gives its replicas."""

    figures: Figures = field(default_factory=Figures)
    peers: tuple[Peer, ...] = ()


class PeerDiscovery:
    """A controller's list of the cluster's other applications.

    Args:
        find: those that requests can be sent to; may block.
        ask: asks an application's controller for its figures.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        find: Callable[[], Iterable[Peer]],
        ask: Callable[[str], Awaitable[Figures]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._found: tuple[Peer, ...] = ()
        self._find = find
        self._ask = ask
        self._clock = clock
        self._looked = self._succeeded = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._finding: asyncio.Task[list[Peer]] | None = None
        self._silent: set[str] = set()

    @property
    def known(self) -> tuple[Peer, ...]:
        """Those that have told what they answer; none once no look has succeeded for long: they may be gone."""
        return self._found if self._clock() - self._succeeded < _STANDS_S else ()

    def look(self) -> asyncio.Task[None] | None:
        """Start a search, if it is time and the last one has ended. Return its task, for callers that wait for it."""
        if self._clock() - self._looked >= _LOOK_S and (self._looking is None or self._looking.done()):
            self._looked = self._clock()
            self._looking = asyncio.create_task(self._look())
        return self._looking

    async def _look(self) -> None:
        try:
            asked = await asyncio.gather(*(self._asked(one) for one in await self._all()))
        except (LlamaFarmError, TimeoutError) as error:
            logger.info("The other applications could not be listed: %s", error)
        except Exception:  # a task of a process: there is nobody to tell but the log
            logger.exception("The other applications could not be listed.")
        else:
            self._found = tuple(one for one in asked if one.figures.kinds)
            self._succeeded = self._clock()

    async def _all(self) -> list[Peer]:
        """Those that there are.

        Raises:
            TimeoutError: it takes too long. A thread can't be stopped, so no second one is begun until it has ended.
        """
        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(asyncio.to_thread(lambda: list(self._find())))
        await asyncio.wait({self._finding}, timeout=_LATE_S)
        if not self._finding.done():
            raise TimeoutError(f"Serve has not said within {_LATE_S:g} s.")
        return self._finding.result()

    async def _asked(self, found: Peer) -> Peer:
        """Return an application with its controller's report, else with the last report of the same base model."""
        is_same = (found.application, found.base_digest)
        before = next((one.figures for one in self._found if (one.application, one.base_digest) == is_same), Figures())
        try:
            async with asyncio.timeout(_LATE_S):
                told = await self._ask(found.application)
            # `replace` reads every field: what another release said lacks some, and is noticed here.
            figures = replace(told, kinds=told.kinds or before.kinds, latencies=replace(told.latencies))
        # ValueError: there is none. AttributeError and TypeError: it, or what it said, is another release's.
        except (TimeoutError, RayError, ValueError, AttributeError, TypeError) as error:
            if found.application not in self._silent:  # once, not every time
                logger.info("The controller of %s says nothing: %s", found.application, str(error) or "it is late")
            self._silent.add(found.application)
            return replace(found, figures=before)
        self._silent.discard(found.application)
        return replace(found, figures=figures)


class PeerModels:
    """The models of other applications, described; for a replica, which has the registry's state itself.

    Args:
        admits: returns True if a caller admitted here is admitted by another application's settings, see
            ``Keys.admit_to``.
    """

    def __init__(self, admits: Callable[[bool | None, Collection[str], Sequence[Header]], bool]) -> None:
        self._admits = admits
        self._offers: dict[tuple[str, str, Digest, tuple[str, ...]], ModelCatalog] = {}

    def to_choose_from(
        self, peers: Iterable[Peer], state: RegistryState, caller: Caller, headers: Sequence[Header]
    ) -> list[Offer]:
        """Return the candidates for ``auto`` of each peer that admits the request and that the client may read.

        An offer's ``base_url`` is an absolute path.

        Args:
            peers: the other applications.
            headers: of the request, names in lower case.
        """
        kept, self._offers = self._offers, {}
        found: list[Offer] = []
        for one in peers:
            key = (one.root, one.base_name, one.base_digest, one.figures.kinds)
            offers = kept.get(key) or ModelCatalog(one.base_name, one.base_digest, one.figures.kinds, f"{one.root}/v1")
            self._offers[key] = offers
            if not self._admits(one.require_key, one.allowed_hosts, headers):
                continue
            if not may_read(headers, one.allowed_origins):
                continue
            found += offers.to_choose_from(state, one.figures.latencies, caller)
        return found
