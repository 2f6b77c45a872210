"""Ray Serve LLM with direct streaming: with :mod:`.replicas` the only module that touches Ray's private parts.

It relies on (a test names each, so that an upgrade that moves one fails there):

* ``LLMServer.engine``, ``VLLMEngine.build_asgi_app`` and ``VLLMEngine._oai_models``, which is vLLM's,
* ``LLMServer.__serve_build_asgi_app__``, the hook that makes a replica's HTTP app,
* ``LLMRouter._get_multiplexed_model_id``, whose answer reaches the replica as a header that clients can't set,
  ``LLMRouter._get_handle`` and ``_pick_replica``, which pick a replica by it, and ``app`` of what ``serve.ingress``
  makes, the HTTP app that HAProxy asks and that gets the client's session header (``RAY_SERVE_SESSION_ID_HEADER_KEY``),
* ``_build_direct_streaming_llm_deployment`` and ``Application._with_ingress_request_router``.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

from ray import serve
from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
from ray.llm._internal.serve.core.ingress.builder import _build_direct_streaming_llm_deployment
from ray.llm._internal.serve.core.ingress.router import LLMRouter
from ray.llm._internal.serve.core.server.llm_server import LLMServer
from ray.serve.deployment import Application
from ray.serve.handle import DeploymentHandle

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.registry.view import RegistryView
from llamafarm_ray.serving.activity import Activity
from llamafarm_ray.serving.feedback import FeedbackLog
from llamafarm_ray.serving.gate import Gate
from llamafarm_ray.serving.intake import caller_of
from llamafarm_ray.serving.replica_log import serve_log_kept
from llamafarm_ray.serving.replicas import ROUTER
from llamafarm_ray.serving.request_headers import KeepHeaders, request_headers
from llamafarm_ray.serving.rollouts.windows import Report
from llamafarm_ray.serving.scaling import CPU_METRIC, CpuMeter
from llamafarm_ray.serving.selection import AUTO
from llamafarm_ray.serving.versions import Served, Versions
from llamafarm_ray.serving.vllm_adapters import VllmAdapters
from llamafarm_ray.serving.web_pages import for_web_pages
from llamafarm_ray.storage import Location

__all__ = ["Served", "compose"]


_PICK_S = 2.0


class Replica(LLMServer):  # type: ignore[misc]
    """One vLLM engine and the gate in front of its HTTP app."""

    async def __init__(self, llm_config: LLMConfig, *, served: Served, num_cpus: float) -> None:  # type: ignore[misc]
        self._served = served
        self._cpu = CpuMeter(num_cpus)
        self._adapters = VllmAdapters(lambda: self.engine._oai_models)  # noqa: SLF001
        self._versions = Versions(served, self._adapters)
        await self._versions.follow()
        with serve_log_kept():
            await super().__init__(llm_config)
        await self._versions.preload(serve.get_replica_context().app_name)

    async def __serve_build_asgi_app__(self) -> Any:
        """The HTTP app that HAProxy sends requests to: vLLM's own, behind the gate."""
        with serve_log_kept():
            app = await self.engine.build_asgi_app()
        app.middleware_stack = None  # vLLM builds it early; Starlette builds it anew with the gate in it
        app.add_middleware(
            Gate,
            models=self._versions,
            keys=self._versions.keys,
            feedback=FeedbackLog(Location(self._served.home)),
            telemetry=self._versions.telemetry,
            limits=self._served.limits,
            log_prompts=self._served.log_prompts,
            tracing=self._versions.tracing,
        )
        return for_web_pages(app, self._served.allowed_origins)

    async def load(self, reference: str) -> str:
        """Have a version ready on this replica; its engine name. Called on every replica before an alias moves."""
        return await self._versions.load(reference)

    async def rollout_report(self, rollout: str, after: dt.datetime) -> Report:
        """What this replica saw of a rollout in windows that ended after a time."""
        return self._versions.rollout_report(rollout, after)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve's autoscaler gets to know beside the number of requests, which it counts itself."""
        return {CPU_METRIC: await asyncio.to_thread(self._cpu.percent)}

    def reconfigure(self, settings: dict[str, Any]) -> None:
        """Nothing: the settings are for who holds requests back while no replica runs, see :mod:`.cold_start`."""

    def num_loads(self) -> dict[str, int]:
        """How often this replica loaded each version, by engine name."""
        return self._versions.num_loads

    async def activity(self) -> Activity:
        """What this replica has loaded and did lately."""
        return self._versions.activity()

    async def loaded(self) -> list[str]:
        """The engine names of the versions that this replica's engine holds."""
        return await self._adapters.loaded()


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
        if not isinstance(model, str) or model == AUTO:  # the replica chooses: it knows the key and the limits
            return ""
        try:
            return self._served.resolve(model, self._view, caller_of(request_headers(), body)).routed
        except LlamaFarmError:
            return ""

    def _get_handle(self, multiplexed_model_id: str) -> DeploymentHandle:
        """Pick a replica by the engine name alone: both sides of a rollout find the replicas that have it loaded."""
        return super()._get_handle(multiplexed_model_id.partition(";")[0])

    async def _pick_replica(self, handle: DeploymentHandle, **options: Any) -> tuple[str, int, str, str | None]:
        """A replica, or one that HAProxy does not know where none runs any more and HAProxy was not told yet.

        It sends what it does not know to Serve's own proxy, where requests wait for a first replica. Without an answer
        in five seconds it would refuse the request.
        """
        try:
            async with asyncio.timeout(_PICK_S):
                picked: tuple[str, int, str, str | None] = await super()._pick_replica(handle=handle, **options)
                return picked
        except TimeoutError:
            return "", 0, "none", None


def compose(llm_config: LLMConfig, served: Served) -> Application:
    """The Serve application: replicas as the ingress, and the router that HAProxy asks for each request."""
    bundles = (llm_config.placement_group_config or {})["bundle_per_worker"]
    replicas = _build_direct_streaming_llm_deployment(
        llm_config,
        deployment_cls=Replica,
        bind_kwargs={"served": served, "num_cpus": bundles["CPU"]},
        name_prefix="",
        override_serve_options={"user_config": served.cold_start()},
    )
    router = serve.deployment(Router, name=ROUTER, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    return replicas._with_ingress_request_router(router.bind(replicas, served=served))  # noqa: SLF001
