"""Ray Serve LLM with direct streaming: with :mod:`.router` and :mod:`.replicas` what touches Ray's private parts.

It relies on (a test names each, so that an upgrade that moves one fails there):

* ``LLMServer.engine`` and its ``engine_cls``, ``VLLMEngine.build_asgi_app``, ``VLLMEngine._start_async_llm_engine`` and
  ``VLLMEngine._oai_models``, which is vLLM's,
* ``LLMServer.__serve_build_asgi_app__``, the hook that makes a replica's HTTP app, and ``LLMServer._start_engine``,
* ``CallbackBase.on_before_node_init`` and ``CallbackCtx.run_init_node``,
* ``_build_direct_streaming_llm_deployment`` and ``Application._with_ingress_request_router``.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase, CallbackConfig
from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
from ray.llm._internal.serve.core.ingress.builder import _build_direct_streaming_llm_deployment
from ray.llm._internal.serve.core.server.llm_server import LLMServer
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.deployment import Application

from llamafarm_ray.serving.activity import Activity
from llamafarm_ray.serving.feedback import FeedbackLog
from llamafarm_ray.serving.gate import Gate
from llamafarm_ray.serving.replica_log import serve_log_kept
from llamafarm_ray.serving.replicas import ROUTER
from llamafarm_ray.serving.rollouts.windows import Report
from llamafarm_ray.serving.router import Router
from llamafarm_ray.serving.scaling import CPU_METRIC, CpuMeter
from llamafarm_ray.serving.versions import Served, Versions
from llamafarm_ray.serving.vllm_adapters import VllmAdapters
from llamafarm_ray.serving.vllm_process import in_one_process
from llamafarm_ray.serving.web_pages import for_web_pages
from llamafarm_ray.storage import Location

__all__ = ["Served", "compose"]


class LocalFiles(CallbackBase):  # type: ignore[misc]
    """Says that the base model, a folder, needs no download.

    To see that for itself, Ray would start a process that imports all of vLLM, and the engine would wait for it.
    """

    async def on_before_node_init(self) -> None:
        """Called in a replica before its engine starts."""
        self.ctx.run_init_node = False


class Engine(VLLMEngine):  # type: ignore[misc]
    """vLLM as Ray starts it, in fewer processes where that is faster."""

    def _start_async_llm_engine(self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any) -> Any:
        with in_one_process(vllm_engine_config):
            return super()._start_async_llm_engine(vllm_engine_args, vllm_engine_config, placement_group)


class Replica(LLMServer):  # type: ignore[misc]
    """One vLLM engine and the gate in front of its HTTP app."""

    async def __init__(self, llm_config: LLMConfig, *, served: Served, num_cpus: float) -> None:  # type: ignore[misc]
        self._served = served
        self._cpu = CpuMeter(num_cpus)
        self._adapters = VllmAdapters(lambda: self.engine._oai_models)  # noqa: SLF001
        self._versions = Versions(served, self._adapters)
        await self._versions.follow()
        with serve_log_kept():
            await super().__init__(llm_config, engine_cls=Engine)
        await self._versions.preload(serve.get_replica_context().app_name)

    async def _start_engine(self) -> None:
        """Without the report of what is served, for which Ray starts a process while the replica waits."""
        await self.engine.start()

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


def compose(llm_config: LLMConfig, served: Served, *, router_env: Mapping[str, str]) -> Application:
    """The Serve application: replicas as the ingress, and the router that HAProxy asks for each request.

    Args:
        llm_config: of the replicas.
        served: what is served.
        router_env: environment variables of the router's process.
    """
    llm_config.callback_config = CallbackConfig(callback_class=LocalFiles)
    bundles = (llm_config.placement_group_config or {})["bundle_per_worker"]
    replicas = _build_direct_streaming_llm_deployment(
        llm_config,
        deployment_cls=Replica,
        bind_kwargs={"served": served, "num_cpus": bundles["CPU"]},
        name_prefix="",
        override_serve_options={"user_config": served.cold_start()},
    )
    options = {"num_cpus": 0, "runtime_env": {"env_vars": dict(router_env)}}
    unlogged = {"enable_access_log": False}  # a line for each request, before its time to first token
    router = serve.deployment(
        Router, name=ROUTER, max_ongoing_requests=1000, ray_actor_options=options, logging_config=unlogged
    )
    return replicas._with_ingress_request_router(router.bind(replicas, served=served))  # noqa: SLF001
