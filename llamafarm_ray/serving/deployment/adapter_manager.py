"""Adapter manager of a replica: resolves versions in its copy of the registry, pulls, checks and loads them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from llamafarm_ray.config import Journal as JournalSettings
from llamafarm_ray.config import Limits, Rollout
from llamafarm_ray.errors import ClusterError, LlamaFarmError, NotFoundError
from llamafarm_ray.registry.remote.client import connect
from llamafarm_ray.registry.remote.view import RegistryView
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.serving.adapters.desired_state import aliases_of, need_of
from llamafarm_ray.serving.adapters.files import ServedBase, VerifiedFiles
from llamafarm_ray.serving.adapters.pool import AdapterPool
from llamafarm_ray.serving.adapters.protocols import AdapterEngine, Room
from llamafarm_ray.serving.deployment.reconciler import DesiredDeployment, Reconciler
from llamafarm_ray.serving.deployment.rollout_actor import controller_actor, start_controller
from llamafarm_ray.serving.deployment.shared_reads import SharedReads
from llamafarm_ray.serving.gateway.auth import Keys
from llamafarm_ray.serving.gateway.limits import Accounts
from llamafarm_ray.serving.gateway.shared_limits import Told, keep_shared
from llamafarm_ray.serving.gateway.token_quotas import TokenQuotas
from llamafarm_ray.serving.http.asgi import Header
from llamafarm_ray.serving.journal.journal import Journal
from llamafarm_ray.serving.journal.ledger import Devices
from llamafarm_ray.serving.routing.resolution import Target, resolve, resolve_routed, served_models
from llamafarm_ray.serving.routing.traffic_split import Caller
from llamafarm_ray.serving.selection.application_settings import SETTINGS_KEY, ApplicationSettings
from llamafarm_ray.serving.selection.catalog import WRITES, ModelCatalog
from llamafarm_ray.serving.selection.latencies import Kept, Lasting, Latencies
from llamafarm_ray.serving.selection.model_selection import Offer
from llamafarm_ray.serving.selection.peers import Figures, Known, PeerModels
from llamafarm_ray.serving.telemetry.metrics import Telemetry
from llamafarm_ray.serving.telemetry.request_statistics import Activity
from llamafarm_ray.serving.telemetry.rollout_windows import Report, RolloutWindows
from llamafarm_ray.serving.telemetry.tracing import open_tracing
from llamafarm_ray.storage import ContentStore, Location
from llamafarm_ray.telemetry.catalog import SERVING
from llamafarm_ray.telemetry.logs import set_up_logs
from llamafarm_ray.telemetry.meters import RayMeters
from llamafarm_ray.types import Digest, ModelRef

if TYPE_CHECKING:
    from ray.actor import ActorHandle

__all__ = ["AdapterManager", "Served"]

logger = logging.getLogger(__name__)

_REGISTRY_S = 5.0
"""A request waits no longer for the registry."""
_LOOK_AGAIN_S = 0.2
"""Least seconds between two reads of the registry that unknown names cause."""
_MEASURE_S = 2.0
"""Greatest age in seconds of the latencies that ``auto`` chooses by."""
_ASK_S = 1.0
"""Timeout in seconds of a call to the rollout actor; a request for ``auto`` waits for it."""
_STANDS_S = 30.0
"""Seconds that the rollout actor's last answer is used while it does not answer."""
_SEEK_S = 2.0
"""Seconds between two look-ups of a rollout actor that was not found."""
_SWAP_S = 600.0
"""Seconds that a version loaded for a swap waits for its alias: as long as the other replicas may take."""


@dataclass(frozen=True, slots=True)
class Served:
    """Settings of an application.

    Attributes:
        home: the registry's home, reachable from every node.
        base_name: the name requests call the base model by.
        base_digest: manifest digest of the base's files; adapters of another base are refused.
        preload: references of the adapters that are loaded before the first request.
        adapters: the versions (``name:version``) that these were when it was deployed.
        rollout: plan by which the others of them become production; ``None``: they don't.
        require_key: True if requests need a key; ``None``: once the registry has principals.
        limits: limits of each key, and of waiting requests.
        log_prompts: True if prompts are logged, and part of traces.
        allowed_hosts: names in the public DNS that requests without a key may call this server by.
        allowed_origins: origins whose web pages may read answers.
        otlp_traces_endpoint: URL that spans are sent to; ``None``: nowhere.
        room: capacity of each engine for adapters.
        secret: secret that the router signs its decisions with; empty without a router.
        base_reference: reference to the base model, for nodes that have to fetch it.
        devices: devices of each replica.
        tells_logprobs: True if the engine returns log-probabilities of any answer.
    """

    home: str
    base_name: str
    base_digest: Digest
    preload: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    rollout: Rollout | None = None
    require_key: bool | None = None
    limits: Limits = field(default_factory=Limits)
    log_prompts: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    otlp_traces_endpoint: str | None = None
    room: Room = field(default_factory=Room)
    secret: str = field(default="", repr=False)
    base_reference: str = ""
    journal: JournalSettings = field(default_factory=JournalSettings)
    devices: Devices = field(default_factory=Devices)
    tells_logprobs: bool = False

    def cold_start(self) -> dict[str, ApplicationSettings]:
        """Return Serve's ``user_config``: the settings that are needed while no replica of the application runs."""
        settings = ApplicationSettings(
            home=self.home,
            base_name=self.base_name,
            base_digest=str(self.base_digest),
            require_key=self.require_key,
            allowed_hosts=list(self.allowed_hosts),
            allowed_origins=list(self.allowed_origins),
            max_body_bytes=self.limits.max_body_bytes,
            max_requests=self.limits.cold_start_requests,
            timeout_s=self.limits.cold_start_timeout_s,
        )
        return {SETTINGS_KEY: settings}

    def resolve(self, model: str, view: RegistryView, caller: Caller | None = None) -> Target:
        """Return the target of a request's ``model``, or without a caller that of the router's decision.

        See :mod:`llamafarm_ray.serving.routing.resolution`.
        """
        if caller is None:
            return resolve_routed(model, view.state, base_name=self.base_name, base_digest=self.base_digest)
        return resolve(model, view.state, base_name=self.base_name, base_digest=self.base_digest, caller=caller)


class AdapterManager:
    """The gateway's ``Models`` over an engine of this process.

    Args:
        engine: engine that versions are loaded into.
        kinds: the requests that it answers, see :mod:`llamafarm_ray.serving.selection.catalog`.

    Attributes:
        keys: returns the owner of a request's key.
        telemetry: told of each request, for metrics and rollouts.
        tracing: tracer of requests and loads.
        accounts: accounts of the keys.
        quotas: tokens of namespaces.
        journal: takes in requests and ratings for health and usage.
    """

    def __init__(self, served: Served, engine: AdapterEngine, kinds: tuple[str, ...] = WRITES) -> None:
        set_up_logs()
        self._served = served
        self._view = RegistryView(served.home)
        content = ContentStore(
            Location(served.home), generation=lambda digest: self._view.state.generations.get(digest, 0)
        )
        self.keys = Keys(lambda: self._view.state, required=served.require_key, allowed_hosts=served.allowed_hosts)
        windows = RolloutWindows(lambda: {rollout.id for rollout in self._view.state.rollouts_under_way()})
        self._meters = RayMeters(SERVING)
        self.telemetry = Telemetry(self._meters, windows)
        self.accounts = Accounts(served.limits)
        self.journal = Journal(
            Location(served.home), served.journal, devices=served.devices, tells_logprobs=served.tells_logprobs
        )
        self.quotas = TokenQuotas(lambda: self._view.state, Location(served.home), self.journal.replica)
        self.tracing = open_tracing(served.otlp_traces_endpoint, log_prompts=served.log_prompts)
        self._files = VerifiedFiles(content, self._view)
        self._pool = AdapterPool(
            engine,
            self._files,
            served.room,
            need=lambda target: need_of(target, self._view.state),
            aliases=lambda target: aliases_of(target, self._view.state, served.base_digest),
            watch=self.telemetry,
            tracing=self.tracing,
        )
        self._offers = ModelCatalog(served.base_name, served.base_digest, kinds)
        self._elsewhere = PeerModels(self.keys.admit_to)
        self._kinds = kinds
        self._known = Kept(self._ask, _MEASURE_S)
        self._heard = Lasting[Known](_STANDS_S)
        self._application = ""
        self._controller: ActorHandle | None = None
        self._sought, self._trouble = -_SEEK_S, ""
        self._reads = SharedReads(lambda: self._view.refresh(within_s=_REGISTRY_S), spacing_s=_LOOK_AGAIN_S)
        self._tasks: list[asyncio.Task[None]] = []

    def prove_against(self, base: ServedBase) -> None:
        """Prove adapters against a base model before they are loaded."""
        self._files.base = base

    async def follow(self) -> None:
        """Follow the registry."""
        self._view.on_change = self._pool.registry_changed
        self._view.on_read = self.telemetry.registry_read
        await self._view.start()

    async def preload(self, application: str) -> None:
        """Load the versions to preload; then tell the registry, and have rollouts advanced.

        Args:
            application: the Serve application that this replica is of.

        Raises:
            LlamaFarmError: one of these versions can't be served.
        """
        for reference in self._also_wanted():
            try:
                await self.prepare(reference)
            except LlamaFarmError as error:  # a rollout's controller finds that out too, and ends it
                logger.warning("%s is not loaded: %s", reference, error)
        for reference in self._served.preload:
            await self.prepare(reference)
        self._application = self.journal.application = application
        self._tasks = [
            asyncio.create_task(self._announcer().run()),
            asyncio.create_task(self._meters.keep_gauges()),
            asyncio.create_task(self.journal.keep()),
            asyncio.create_task(self.quotas.keep()),
        ]
        if self.accounts.are_shared:
            self._tasks.append(asyncio.create_task(keep_shared(self.accounts, self._exchange)))

    def _also_wanted(self) -> list[str]:
        """Return the references to load beside ``preload``: both sides of rollouts, and aliases of preloaded models.

        The aliases may have pointed at other versions when the application was deployed.
        """
        state = self._view.state
        wanted = [
            f"{rollout.model}:{version}"
            for rollout in state.rollouts_under_way()
            for version in (rollout.baseline, rollout.candidate)
            if state.version(rollout.model, version).registered.base_digest == self._served.base_digest
        ]
        for name in {ModelRef.parse(reference).name for reference in self._served.preload}:
            record = state.models.get(name)
            wanted += [f"{name}:{moves[-1].version}" for moves in record.aliases.values()] if record else []
        return list(dict.fromkeys(wanted))

    def _announcer(self) -> Reconciler:
        served, application = self._served, self._application
        return Reconciler(
            DesiredDeployment(application, served.base_name, str(served.base_digest), served.adapters, served.rollout),
            state=lambda: self._view.state,
            connect=lambda: connect(served.home),
            place=lambda: _place(application),
            start_controller=lambda: start_controller(served.home, application, served.base_digest),
        )

    async def _ask(self) -> Known:
        """Return the rollout actor's figures of all replicas and of other applications; without it, this replica's own.

        One that is late, or is being started anew, has not forgotten the others: what it said stands for a while.
        """
        known = self._heard.told(await self._ask_controller("known"))
        return known or Known(Figures(self._kinds, Latencies.of(self.telemetry.recent.seen())))

    async def _exchange(self, replica: str, told: Told) -> Told | None:
        heard: Told | None = await self._ask_controller("exchange", replica, told)
        return heard

    async def _ask_controller(self, method: str, *args: object) -> Any:
        """Return the rollout actor's answer to a call, or None if there is none within a second."""
        if self._controller is None and time.monotonic() < self._sought + _SEEK_S:
            return None
        trouble = ""
        try:
            async with asyncio.timeout(_ASK_S):
                if self._controller is None:
                    self._sought = time.monotonic()
                    self._controller = await asyncio.to_thread(controller_actor, self._served.home, self._application)
                return await getattr(self._controller, method).remote(*args)
        except TimeoutError:
            trouble = "it is late"
        # ValueError: there is none. AttributeError: it is another release's.
        except (RayError, ValueError, AttributeError) as error:
            self._controller = None  # another one takes its place
            trouble = str(error)
        finally:
            if trouble != self._trouble:  # once, not every time
                logger.info("The application's controller answers%s", f" nothing: {trouble}" if trouble else ".")
            self._trouble = trouble
        return None

    async def describe(self, names: Iterable[str]) -> dict[str, Offer]:
        """Return the catalog entries of names; names that resolve to nothing are left out."""
        return self._offers.of(names, self._view.state, (await self._known.get()).figures.latencies)

    async def offers(self, caller: Caller, headers: Sequence[Header]) -> list[Offer]:
        """Return the candidates for ``auto``: the base and each model's name, here and in other applications.

        Args:
            caller: sender of the request.
            headers: of the request; what would refuse them elsewhere is left out.
        """
        known, state = await self._known.get(), self._view.state
        own = self._offers.to_choose_from(state, known.figures.latencies, caller)
        return own + self._elsewhere.to_choose_from(known.peers, state, caller, headers)

    def activity(self) -> Activity:
        """Return the loaded versions and recent requests of this replica."""
        return Activity(
            self._served.base_name,
            tuple(self._pool.loaded),
            self.telemetry.num_waiting,
            self.telemetry.recent.seen(),
            self._kinds,
        )

    def rollout_report(self, rollout: str, after: dt.datetime) -> Report:
        """Return a rollout's windows that ended after a time. Call it on the event loop that counts requests."""
        return self.telemetry.windows.report(rollout, after)

    @property
    def state(self) -> RegistryState:
        """The registry's state, as of at most a second ago."""
        return self._view.state

    @property
    def num_loads(self) -> dict[str, int]:
        """Return the number of loads of each version, by engine name."""
        return dict(self._pool.num_loads)

    async def find(self, model: str, caller: Caller | None = None) -> Target:
        """Return the version that a request means, or that the router decided on.

        An unknown name waits until the registry was read once more, so that it may have been registered just before.

        Raises:
            NotFoundError: no such model is served here.
        """
        try:
            return self._served.resolve(model, self._view, caller)
        except NotFoundError:
            with contextlib.suppress(RayError, TimeoutError), self.tracing.step("read registry"):
                async with asyncio.timeout(_REGISTRY_S):  # without the registry, what is known stands
                    await self._reads.read()
            return self._served.resolve(model, self._view, caller)

    def use(self, target: Target) -> AbstractAsyncContextManager[None]:
        """Keep a version loaded for the time of a block, see ``AdapterPool.use``."""
        return self._pool.use(target)

    async def prepare(self, model: str) -> Target:
        """Load a version that requests are expected for.

        Raises:
            LlamaFarmError: it can't be served here.
        """
        target = await self.find(model)
        await self._pool.load(target)
        return target

    async def load(self, reference: str) -> str:
        """Load a version; return its engine name. Called on every replica before an alias moves, and kept until then.

        Raises:
            LlamaFarmError: it can't be served here.
        """
        await self._view.refresh()
        target = await self.find(reference)
        await self._pool.load(target, hold_s=_SWAP_S)
        return target.engine_name

    def names(self) -> list[str]:
        """The names a request may use."""
        return served_models(self._view.state, base_name=self._served.base_name, base_digest=self._served.base_digest)


def _place(application: str) -> tuple[str, str]:
    """The application's URL and the cluster's address.

    Raises:
        ClusterError: it has no URL yet.
    """
    from llamafarm_ray.serving.ray_serve.state import url_of  # Serve reads the environment when it is imported

    url = url_of(application)
    if url is None:
        raise ClusterError(f"Serve has no route to {application!r}.")
    return url, ray.get_runtime_context().gcs_address
