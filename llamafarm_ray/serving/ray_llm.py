"""Ray Serve LLM with direct streaming: with :mod:`.replicas` the only module that touches Ray's private parts.

It relies on (a test names each, so that an upgrade that moves one fails there):

* ``LLMServer.engine``, ``VLLMEngine.build_asgi_app`` and ``VLLMEngine.resolve_lora``,
* ``LLMServer.__serve_build_asgi_app__``, the hook that makes a replica's HTTP app,
* ``LLMRouter._get_multiplexed_model_id``, whose answer reaches the replica as a header that clients can't set,
  ``LLMRouter._get_handle``, which picks a replica by it, and ``app`` of what ``serve.ingress`` makes, the HTTP app that
  HAProxy asks and that gets the client's session header (``RAY_SERVE_SESSION_ID_HEADER_KEY``),
* ``_build_direct_streaming_llm_deployment`` and ``Application._with_ingress_request_router``.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig, LLMConfig
from ray.llm._internal.serve.core.ingress.builder import _build_direct_streaming_llm_deployment
from ray.llm._internal.serve.core.ingress.router import LLMRouter
from ray.llm._internal.serve.core.server.llm_server import LLMServer
from ray.serve.deployment import Application
from ray.serve.handle import DeploymentHandle

from llamafarm_ray.config import Limits
from llamafarm_ray.errors import LlamaFarmError, NotFoundError, UserError
from llamafarm_ray.registry.signing import check_policies
from llamafarm_ray.registry.view import RegistryView
from llamafarm_ray.serving.access import Keys
from llamafarm_ray.serving.adapters import AdapterLoader
from llamafarm_ray.serving.feedback import FeedbackLog
from llamafarm_ray.serving.gate import Gate
from llamafarm_ray.serving.intake import caller_of
from llamafarm_ray.serving.meters import RayMeters
from llamafarm_ray.serving.replicas import ROUTER
from llamafarm_ray.serving.request_headers import KeepHeaders, request_headers
from llamafarm_ray.serving.resolution import Target, resolve, resolve_routed, served_models
from llamafarm_ray.serving.rollouts.actor import start_controller
from llamafarm_ray.serving.rollouts.split import NOBODY, Caller
from llamafarm_ray.serving.rollouts.windows import Report, RolloutWindows
from llamafarm_ray.serving.telemetry import Telemetry
from llamafarm_ray.storage import ContentStore, Location
from llamafarm_ray.types import Digest, ModelRef

__all__ = ["Served", "compose"]

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.2
"""How often an unknown name may make a replica ask the registry again."""


@dataclass(frozen=True, slots=True)
class Served:
    """What an application serves.

    Attributes:
        home: the registry's home, reachable from every node.
        base_name: the name requests call the base model by.
        base_digest: manifest digest of the base's files; adapters of another base are refused.
        preload: references of the adapters that are loaded before the first request.
        require_key: whether requests need a key; ``None``: once the registry has principals.
        limits: what each key may ask for, and how requests wait.
        log_prompts: whether prompts are logged.
    """

    home: str
    base_name: str
    base_digest: Digest
    preload: tuple[str, ...] = ()
    require_key: bool | None = None
    limits: Limits = field(default_factory=Limits)
    log_prompts: bool = False

    def resolve(self, model: str, view: RegistryView, caller: Caller | None = None) -> Target:
        """The target of a request's ``model``, or without a caller of what the router decided.

        See :mod:`llamafarm_ray.serving.resolution`.
        """
        if caller is None:
            return resolve_routed(model, view.state, base_name=self.base_name, base_digest=self.base_digest)
        return resolve(model, view.state, base_name=self.base_name, base_digest=self.base_digest, caller=caller)


class Replica(LLMServer):  # type: ignore[misc]
    """One vLLM engine and the gate in front of its HTTP app."""

    async def __init__(self, llm_config: LLMConfig, *, served: Served) -> None:  # type: ignore[misc]
        self._served = served
        self._view = RegistryView(served.home)
        self._content = ContentStore(
            Location(served.home), generation=lambda digest: self._view.state.generations.get(digest, 0)
        )
        windows = RolloutWindows(lambda: {rollout.id for rollout in self._view.state.rollouts_under_way()})
        self._telemetry = Telemetry(RayMeters(), windows)
        self._loader = AdapterLoader(self, self._pull, self._telemetry.loaded)
        self._looked = 0.0
        await self._view.start()
        await super().__init__(llm_config)
        for reference in served.preload:
            await self.prepare(reference)
        self._starting = asyncio.create_task(self._start_controller())

    async def _start_controller(self) -> None:
        """See to it that somebody takes rollouts further; requests are answered without."""
        application = serve.get_replica_context().app_name
        try:
            await asyncio.to_thread(start_controller, self._served.home, application, self._served.base_digest)
        except (RayError, LlamaFarmError) as error:
            logger.warning("The rollouts' controller could not be started: %s", error)

    async def __serve_build_asgi_app__(self) -> Any:
        """The HTTP app that HAProxy sends requests to: vLLM's own, behind the gate."""
        app = await self.engine.build_asgi_app()
        app.middleware_stack = None  # vLLM builds it early; Starlette builds it anew with the gate in it
        app.add_middleware(
            Gate,
            models=self,
            keys=Keys(lambda: self._view.state, required=self._served.require_key),
            feedback=FeedbackLog(Location(self._served.home)),
            telemetry=self._telemetry,
            limits=self._served.limits,
            log_prompts=self._served.log_prompts,
        )
        return app

    def resolve(self, model: str) -> Target:
        """The version that a name means; not for what the router decided.

        Raises:
            NotFoundError: no such model is served here.
        """
        return self._served.resolve(model, self._view, NOBODY)

    async def prepare(self, model: str, caller: Caller | None = None) -> Target:
        """Resolve a request's model, or what the router decided, and have it ready to answer.

        Raises:
            NotFoundError: no such model is served here.
        """
        try:
            target = self._served.resolve(model, self._view, caller)
        except NotFoundError:
            if time.monotonic() - self._looked < _LOOK_AGAIN_S:
                raise
            self._looked = time.monotonic()
            with contextlib.suppress(RayError):  # without the registry, what is known stands
                await self._view.refresh()
            target = self._served.resolve(model, self._view, caller)
        await self._loader.ensure(target)
        return target

    def _pull(self, target: Target) -> Path:
        """The verified files of an adapter, their signature too where a policy asks for one."""
        record = self._view.state.resolve(ModelRef.parse(target.ref))
        folder = self._content.pull(Digest(record.registered.manifest))
        check_policies(self._view.state, self._content, record, folder)
        return folder

    def names(self) -> list[str]:
        """The names a request may use."""
        return served_models(self._view.state, base_name=self._served.base_name, base_digest=self._served.base_digest)

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Give vLLM the adapter in ``folder`` under ``name``.

        Raises:
            UserError: vLLM refuses it (rank above ``max_lora_rank``, modules it can't adapt, ...).
        """
        adapter = DiskMultiplexConfig(
            model_id=name, max_total_tokens=None, local_path=str(folder), lora_assigned_int_id=0
        )
        try:
            await self.engine.resolve_lora(adapter)
        except ValueError as error:
            raise UserError(f"vLLM refuses the adapter {name}: {error}") from None

    async def load(self, reference: str) -> str:
        """Have a version ready on this replica; its engine name. Called on every replica before an alias moves."""
        await self._view.refresh()
        return (await self.prepare(reference)).engine_name

    async def rollout_report(self, rollout: str, after: dt.datetime) -> Report:
        """What this replica saw of a rollout in windows that ended after a time; on the loop that counts requests."""
        return self._telemetry.windows.report(rollout, after)

    def num_loads(self) -> dict[str, int]:
        """How often this replica loaded each version, by engine name."""
        return dict(self._loader.num_loads)


class Router(LLMRouter):  # type: ignore[misc]
    """Turns the model that a request names into one version, before a replica is picked."""

    async def __init__(self, server: DeploymentHandle, *, served: Served) -> None:  # type: ignore[misc]
        self._served = served
        self._view = RegistryView(served.home)
        await self._view.start()
        await super().__init__(server=server, base_model_id=served.base_name)
        self.app.add_middleware(KeepHeaders)

    def _get_multiplexed_model_id(self, request_body: dict[str, Any] | None) -> str:
        """The decision for the trusted header; nothing where the replica shall answer with an error."""
        body = request_body or {}
        model = body.get("model")
        if not isinstance(model, str):
            return ""
        try:
            return self._served.resolve(model, self._view, caller_of(request_headers(), body)).routed
        except LlamaFarmError:
            return ""

    def _get_handle(self, multiplexed_model_id: str) -> DeploymentHandle:
        """Pick a replica by the engine name alone: both sides of a rollout find the replicas that have it loaded."""
        return super()._get_handle(multiplexed_model_id.partition(";")[0])


def compose(llm_config: LLMConfig, served: Served) -> Application:
    """The Serve application: replicas as the ingress, and the router that HAProxy asks for each request."""
    replicas = _build_direct_streaming_llm_deployment(
        llm_config, deployment_cls=Replica, bind_kwargs={"served": served}, name_prefix=""
    )
    router = serve.deployment(Router, name=ROUTER, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    return replicas._with_ingress_request_router(router.bind(replicas, served=served))  # noqa: SLF001
