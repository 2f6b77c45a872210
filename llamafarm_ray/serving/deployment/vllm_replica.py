"""vLLM on Ray Serve with direct streaming: HAProxy sends each request to the replica that the router picked.

With at most one replica there is nothing to pick and no router: two hops less before the first token, and a process
less on a small machine. The gateway decides which version answers, by the same rules.

The process that composes the application imports neither vLLM nor Ray Serve LLM, so that a command is fast, also on a
machine that has none of them. Of Ray's private parts it relies on ``Application._with_ingress_request_router`` (a test
names it).
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.deployment import Application

from llamafarm_ray.models.token_bound import token_bound
from llamafarm_ray.serving.adapters.files import ServedBase
from llamafarm_ray.serving.deployment.adapter_manager import AdapterManager, Served
from llamafarm_ray.serving.deployment.replica import Replica, base_folder
from llamafarm_ray.serving.deployment.router import Router
from llamafarm_ray.serving.engines.vllm.adapters import VllmAdapters
from llamafarm_ray.serving.engines.vllm.llm_config import LlmConfig, ModelLoading
from llamafarm_ray.serving.engines.vllm.process import keep_sockets_in, prepare
from llamafarm_ray.serving.gateway.gateway import MODEL_ROUTES, VECTOR_ROUTES
from llamafarm_ray.serving.ray_serve.replica_log import serve_log_kept
from llamafarm_ray.serving.ray_serve.state import ROUTER
from llamafarm_ray.serving.routing.affinity_router import AffinityRouter
from llamafarm_ray.serving.selection.catalog import VECTORS, WRITES

__all__ = ["VllmReplica", "compose"]

_UNBOUNDED = 1_000_000_000
"""Requests that Serve lets a replica have: the gateway has a queue, which says 429 when it is full."""

_HEALTH_S = 10.0
_HEAD = "node:__internal_head__"
"""A resource that Ray's head node has, and no other."""


class VllmReplica(Replica):
    """One vLLM engine and the gateway in front of its HTTP app.

    Args:
        llm_config: the plain values of Ray's ``LLMConfig``.
    """

    async def __init__(self, llm_config: LlmConfig, served: Served, num_cpus: float) -> None:  # type: ignore[misc]  # Serve awaits it
        self._adapters = VllmAdapters(lambda: self._server.engine._oai_models)  # noqa: SLF001
        self._kinds = VECTORS if llm_config["engine_kwargs"].get("runner") == "pooling" else WRITES
        super().__init__(served, AdapterManager(served, self._adapters, self._kinds), num_cpus)
        keep_sockets_in(ray.get_runtime_context().get_temp_dir())
        if llm_config["accelerator_config"]["kind"] == "cpu" and _num_workers(llm_config) == 1:
            prepare()
        with serve_log_kept():
            from llamafarm_ray.serving.engines.vllm import ray_llm  # ten seconds

            await self._versions.follow()
            loading = llm_config["model_loading_config"]
            source = str(await base_folder(served, Path(loading["model_source"])))
            local = ModelLoading(model_id=loading["model_id"], model_source=source)
            self._server = ray_llm.server({**llm_config, "model_loading_config": local})
            await self._server.start()
        self.end_with_engine(self._adapters.is_engine_dead)
        self._adapters.watch()
        self._versions.prove_against(ServedBase(Path(source), self._adapters.dtype, is_vllm=True))
        await self._versions.preload(serve.get_replica_context().app_name)

    async def __serve_build_asgi_app__(self) -> object:
        """The HTTP app that HAProxy sends requests to: vLLM's own, behind the gateway."""
        with serve_log_kept():
            app = await self._server.engine.build_asgi_app()
        app.middleware_stack = None  # vLLM builds it early; Starlette builds it anew with the gateway in it
        routes = VECTOR_ROUTES if self._kinds == VECTORS else MODEL_ROUTES
        app.add_middleware(self.gateway, routes=routes, token_bound=token_bound(self._adapters.tokenizer))
        return self.front(app)

    async def check_health(self) -> None:
        """Fail where nothing can be answered any more: Serve then replaces this replica."""
        await self._server.check_health()

    async def loaded(self) -> list[str]:
        """The engine names of the versions that this replica's engine holds."""
        return await self._adapters.loaded()


def compose(llm_config: LlmConfig, served: Served, *, is_routed: bool, router_env: Mapping[str, str]) -> Application:
    """The Serve application: replicas as the ingress, and the router that HAProxy asks for each request.

    Args:
        llm_config: the plain values of Ray's ``LLMConfig``, of the replicas.
        is_routed: True with a router; one replica needs none.
        router_env: environment variables of the router's process.
    """
    bundles = _bundles(llm_config)
    options: dict[str, Any] = dict(llm_config["deployment_config"])
    inherited = ray.get_runtime_context().runtime_env if ray.is_initialized() else {}
    environment = {**inherited, **llm_config["runtime_env"]}
    options["ray_actor_options"] = {**options["ray_actor_options"], "runtime_env": environment}
    if is_routed:
        served = dataclasses.replace(served, secret=secrets.token_hex())
        options["request_router_config"] = RequestRouterConfig(request_router_class=AffinityRouter)
    replicas = serve.deployment(
        **options,
        user_config=served.cold_start(),
        max_ongoing_requests=_UNBOUNDED,
        health_check_period_s=_HEALTH_S,
        health_check_timeout_s=_HEALTH_S,
        placement_group_bundles=bundles,
        placement_group_strategy="PACK",
    )(serve.ingress()(VllmReplica)).bind(llm_config, served, bundles[0]["CPU"])
    if not is_routed:
        return replicas
    router = serve.deployment(
        name=ROUTER,
        max_ongoing_requests=1000,
        # On the head, where Serve's controller and a HAProxy are too: a worker that is lost takes no router along.
        ray_actor_options={"num_cpus": 0, "resources": {_HEAD: 0.001}, "runtime_env": {"env_vars": dict(router_env)}},
        logging_config={"enable_access_log": False},  # a line for each request, before its time to first token
    )(serve.ingress()(Router)).bind(replicas, served=served)
    return replicas._with_ingress_request_router(router)  # noqa: SLF001


def _bundles(llm_config: LlmConfig) -> list[dict[str, float]]:
    """Return the resources of each of an engine's workers. Ray places the replica itself in the first bundle."""
    actor = llm_config["deployment_config"]["ray_actor_options"]
    worker: dict[str, float] = dict(llm_config["placement_group_config"]["bundle_per_worker"])
    if (kind := llm_config.get("accelerator_type")) is not None:
        worker[f"accelerator_type:{kind}"] = 0.001
    own = {"memory": actor["memory"]} if "memory" in actor else {}
    return [worker | own, *(dict(worker) for _ in range(_num_workers(llm_config) - 1))]


def _num_workers(llm_config: LlmConfig) -> int:
    """Return the number of processes that compute."""
    engine = llm_config["engine_kwargs"]
    workers: int = engine.get("tensor_parallel_size", 1) * engine.get("pipeline_parallel_size", 1)
    return workers
