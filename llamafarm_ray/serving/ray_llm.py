"""Ray Serve LLM with direct streaming: with :mod:`.router` and :mod:`.replicas` what touches Ray's private parts.

It relies on (a test names each, so that an upgrade that moves one fails there):

* ``LLMServer.engine``, ``VLLMEngine.build_asgi_app`` and ``VLLMEngine.resolve_lora``,
* ``LLMServer.__serve_build_asgi_app__``, the hook that makes a replica's HTTP app,
* ``CallbackBase.on_before_node_init`` and ``CallbackCtx.run_init_node``,
* ``_build_direct_streaming_llm_deployment`` and ``Application._with_ingress_request_router``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase, CallbackConfig
from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig, LLMConfig
from ray.llm._internal.serve.core.ingress.builder import _build_direct_streaming_llm_deployment
from ray.llm._internal.serve.core.server.llm_server import LLMServer
from ray.serve.deployment import Application

from llamafarm_ray.errors import UserError
from llamafarm_ray.serving.access import Keys
from llamafarm_ray.serving.feedback import FeedbackLog
from llamafarm_ray.serving.gate import Gate
from llamafarm_ray.serving.replicas import ROUTER
from llamafarm_ray.serving.rollouts.windows import Report
from llamafarm_ray.serving.router import Router
from llamafarm_ray.serving.versions import Served, Versions
from llamafarm_ray.storage import Location

__all__ = ["Served", "compose"]


class LocalFiles(CallbackBase):  # type: ignore[misc]
    """Says that the base model, a folder, needs no download.

    To see that for itself, Ray would start a process that imports all of vLLM, and the engine would wait for it.
    """

    async def on_before_node_init(self) -> None:
        """Called in a replica before its engine starts."""
        self.ctx.run_init_node = False


class Replica(LLMServer):  # type: ignore[misc]
    """One vLLM engine and the gate in front of its HTTP app."""

    async def __init__(self, llm_config: LLMConfig, *, served: Served) -> None:  # type: ignore[misc]
        self._served = served
        self._versions = Versions(served, self)
        await self._versions.follow()
        await super().__init__(llm_config)
        await self._versions.preload(serve.get_replica_context().app_name)

    async def __serve_build_asgi_app__(self) -> Any:
        """The HTTP app that HAProxy sends requests to: vLLM's own, behind the gate."""
        app = await self.engine.build_asgi_app()
        app.middleware_stack = None  # vLLM builds it early; Starlette builds it anew with the gate in it
        app.add_middleware(
            Gate,
            models=self._versions,
            keys=Keys(lambda: self._versions.state, required=self._served.require_key),
            feedback=FeedbackLog(Location(self._served.home)),
            telemetry=self._versions.telemetry,
            limits=self._served.limits,
            log_prompts=self._served.log_prompts,
        )
        return app

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
        return await self._versions.load(reference)

    async def rollout_report(self, rollout: str, after: dt.datetime) -> Report:
        """What this replica saw of a rollout in windows that ended after a time."""
        return self._versions.rollout_report(rollout, after)

    def num_loads(self) -> dict[str, int]:
        """How often this replica loaded each version, by engine name."""
        return self._versions.num_loads


def compose(llm_config: LLMConfig, served: Served, *, router_env: Mapping[str, str]) -> Application:
    """The Serve application: replicas as the ingress, and the router that HAProxy asks for each request.

    Args:
        llm_config: of the replicas.
        served: what is served.
        router_env: environment variables of the router's process.
    """
    llm_config.callback_config = CallbackConfig(callback_class=LocalFiles)
    replicas = _build_direct_streaming_llm_deployment(
        llm_config, deployment_cls=Replica, bind_kwargs={"served": served}, name_prefix=""
    )
    options = {"num_cpus": 0, "runtime_env": {"env_vars": dict(router_env)}}
    router = serve.deployment(Router, name=ROUTER, max_ongoing_requests=1000, ray_actor_options=options)
    return replicas._with_ingress_request_router(router.bind(replicas, served=served))  # noqa: SLF001
