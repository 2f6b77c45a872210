"""An engine on Ray Serve, by its public interface: replicas whose HTTP app is the gateway before the engine's app."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.deployment import Application

from llamafarm_ray.config.sections.deployment import Deployment as DeploymentConfig
from llamafarm_ray.config.sections.deployment import EngineName
from llamafarm_ray.errors import InputError, LlamaFarmError, UnsupportedError, did_you_mean
from llamafarm_ray.registry import BaseModel
from llamafarm_ray.serving.adapters.files import ServedBase
from llamafarm_ray.serving.deployment.adapter_manager import AdapterManager, Served
from llamafarm_ray.serving.deployment.autoscaling import scaling_options
from llamafarm_ray.serving.deployment.replica import Replica, base_folder
from llamafarm_ray.serving.engines.app import ROUTES, EngineApp
from llamafarm_ray.serving.engines.base import Engine
from llamafarm_ray.serving.http.asgi import App
from llamafarm_ray.serving.selection.catalog import VECTORS, WRITES

__all__ = ["EngineSettings", "compose", "engine_settings", "open_engine"]

_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "transformers": ("attn_implementation", "dtype"),
    "onnx": ("n_threads",),
    "gguf": ("cache_type", "flash_attention", "n_batch", "n_parallel", "n_threads", "n_ubatch"),
    "custom": ("model",),
}
"""Keys of ``deployment.engine_kwargs`` that each engine takes."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings to open an engine on any node.

    Attributes:
        max_model_len: the longest prompt with its answer, in tokens; ``None``: the model's.
    """

    engine: EngineName
    base_name: str
    folder: Path
    max_model_len: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def engine_settings(engine: EngineName, base: BaseModel, deployment: DeploymentConfig) -> EngineSettings:
    """The settings that a configuration gives an engine.

    Raises:
        InputError: ``engine_kwargs`` has an option that the engine does not have.
        UnsupportedError: more than one GPU is asked for.
    """
    for name in deployment.engine_kwargs:
        if name not in _OPTIONS[engine]:
            raise InputError(
                f"deployment.engine_kwargs.{name} is no option of engine {engine}.",
                hint=did_you_mean(name, _OPTIONS[engine]),
            )
    gpu = deployment.resources.gpu
    if gpu is not None and gpu.count > 1:
        raise UnsupportedError(
            f"deployment.resources.gpu is {gpu.count:g}, and engine {engine} computes on one.",
            hint="Set it to 1 and deployment.replicas higher.",
        )
    return EngineSettings(engine, base.name, base.folder, deployment.max_model_len, dict(deployment.engine_kwargs))


def open_engine(settings: EngineSettings) -> Engine:
    """Load the base model into an engine; may take minutes.

    Raises:
        InputError: the base model or an option is unusable.
    """
    folder, options = settings.folder, settings.options
    sized = {**options, "max_model_len": settings.max_model_len}
    # Each imports what the others do not need.
    match settings.engine:
        case "custom":
            from llamafarm_ray.serving.engines.custom import custom_engine

            return custom_engine(settings.base_name, folder, **options)
        case "gguf":
            from llamafarm_ray.serving.engines.gguf.engine import GgufEngine

            return GgufEngine(settings.base_name, folder, **sized)
        case "onnx":
            from llamafarm_ray.serving.engines.onnx import onnx_engine

            return onnx_engine(settings.base_name, folder, **sized)
    from llamafarm_ray.serving.engines.transformers import transformers_engine

    return transformers_engine(settings.base_name, folder, **sized)


class EngineReplica(Replica):
    """One engine, and the gateway in front of its HTTP app."""

    async def __init__(self, settings: EngineSettings, served: Served, num_cpus: float) -> None:  # type: ignore[misc]  # Serve awaits it
        settings = replace(settings, folder=await base_folder(served, settings.folder))
        self._engine = await asyncio.to_thread(open_engine, settings)
        versions = AdapterManager(served, self._engine, WRITES if self._engine.writes else VECTORS)
        if settings.engine == "transformers":  # the others read adapters of other kinds, and check them themselves
            versions.prove_against(ServedBase(settings.folder, settings.options.get("dtype")))
        super().__init__(served, versions, num_cpus)
        self.end_with_engine(self._is_dead)
        await self._versions.follow()
        await self._versions.preload(serve.get_replica_context().app_name)

    async def __serve_build_asgi_app__(self) -> App:
        """The HTTP app, which Serve asks for once the replica is made (see ``serve.ingress``)."""
        app = EngineApp(self._engine)
        return self.front(self.gateway(app, routes=ROUTES, token_bound=app.token_bound))

    def check_health(self) -> None:
        """Fail where nothing can be answered any more: Serve then replaces this replica."""
        self._engine.check_health()

    def _is_dead(self) -> bool:
        try:
            self._engine.check_health()
        except LlamaFarmError:
            return True
        return False

    def loaded(self) -> list[str]:
        """The engine names of the versions that this replica's engine holds, beside the base model."""
        return [name for name in self._engine.loaded if name != self._served.base_name]


def compose(
    settings: EngineSettings, served: Served, deployment: DeploymentConfig, *, env: Mapping[str, str]
) -> Application:
    """The Serve application: replicas of an engine, which HAProxy sends requests to."""
    needs, limits = deployment.resources, served.limits
    actor: dict[str, object] = {"num_cpus": needs.cpu or 1, "runtime_env": {"env_vars": dict(env)}}
    if needs.gpu is not None:
        actor["num_gpus"] = needs.gpu.count
        if needs.gpu.type is not None:
            actor["accelerator_type"] = needs.gpu.type.upper()
    if needs.memory is not None:
        actor["memory"] = needs.memory.num_bytes
    made = serve.deployment(
        name=settings.base_name,
        **scaling_options(deployment),
        user_config=served.cold_start(),
        max_ongoing_requests=limits.running_requests + limits.queued_requests,  # the gateway refuses what is over that
        ray_actor_options=actor,
    )
    return made(serve.ingress()(EngineReplica)).bind(settings, served, needs.cpu or 1)
