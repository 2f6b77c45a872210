"""The Serve application that a configuration describes: ``import_path: llamafarm_ray.serving.application:build``."""

from __future__ import annotations

import os
from typing import Any

from llamafarm_ray.config import Config, Deployment, Limits, parse_config
from llamafarm_ray.errors import ClusterError
from llamafarm_ray.registry import BaseModel, find_base, open_registry
from llamafarm_ray.serving.access import check_keys
from llamafarm_ray.serving.engines.choice import choose_engine
from llamafarm_ray.serving.intake import SESSION_HEADER

__all__ = ["SERVE_ENV", "build"]

SERVE_ENV = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
    "RAY_SERVE_INGRESS_REQUEST_ROUTER_FORWARD_BODY": "1",
    "RAY_SERVE_SESSION_ID_HEADER_KEY": SESSION_HEADER,
}
"""What must be in the environment of every process of the cluster, and of this one before ray.serve is imported."""

_ENGINE_ENV = {**SERVE_ENV, "HF_HUB_OFFLINE": "1"}
"""What every replica's environment has."""
_ONE_LOOP_ENV = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
"""Keeps Ray Serve's event loop and the application's one: by default each piece of an answer crosses threads. (Engines
that compute in the replica's process need the loops apart.)"""


def build(args: dict[str, Any]) -> Any:
    """The application for a configuration given as plain values; ``serve deploy`` and ``serve run`` call this.

    Raises:
        ConfigError: the configuration has mistakes.
        ClusterError: the environment lacks :data:`SERVE_ENV`.
        InputError: the endpoint would be open to a network without keys, see
            :func:`llamafarm_ray.serving.access.check_keys`.
        UnsupportedError: the engine that is asked for can't serve the base model or an adapter.
    """
    config = parse_config(args, source="the application's args")
    for name, value in SERVE_ENV.items():
        if os.environ.get(name) != value:
            raise ClusterError(
                f"{name} is not {value} in this process.",
                hint="Start Ray with it: env " + " ".join(f"{k}={v}" for k, v in SERVE_ENV.items()) + " ray start ...",
            )
    registry = open_registry(config.home)
    base = find_base(config.base_model, registry)
    check_keys(config.deployment, registry.refresh())
    engine = choose_engine(config.deployment.engine, base, config.deployment.adapters, registry)
    # These read the environment when they are imported.
    from llamafarm_ray.serving.versions import Served  # noqa: PLC0415

    served = Served(
        registry.home.uri,
        base.name,
        base.digest,
        config.deployment.adapters,
        require_key=config.deployment.require_key,
        limits=_limits(config.deployment),
        log_prompts=config.deployment.log_prompts,
    )
    if engine != "vllm":
        from llamafarm_ray.serving.engines import replica  # noqa: PLC0415

        settings = replica.engine_settings(engine, base, config.deployment)
        return replica.compose(settings, served, config.deployment, env=_ENGINE_ENV)
    from ray.serve.llm import LLMConfig  # noqa: PLC0415

    from llamafarm_ray.serving.ray_llm import compose  # noqa: PLC0415

    return compose(LLMConfig(**_llm_config(config, base)), served, router_env=_ONE_LOOP_ENV)


def _limits(deployment: Deployment) -> Limits:
    """The limits; the engine's own option says how much it works on at once, where it is given."""
    num_running = deployment.engine_kwargs.get("max_num_seqs")
    if not isinstance(num_running, int) or isinstance(num_running, bool):
        return deployment.limits
    return deployment.limits.model_copy(update={"running_requests": num_running})


def _llm_config(config: Config, base: BaseModel) -> dict[str, Any]:
    """The plain values of Ray's LLMConfig."""
    deployment, needs = config.deployment, config.deployment.resources
    engine: dict[str, Any] = {
        "enable_lora": True,
        "max_loras": deployment.max_loras,
        "max_lora_rank": deployment.max_lora_rank,
        "max_num_seqs": deployment.limits.running_requests,
        "enable_log_requests": False,  # the gate logs prompts, where that is asked for
    }
    if deployment.max_model_len is not None:
        engine["max_model_len"] = deployment.max_model_len
    env = {**_ENGINE_ENV, **_ONE_LOOP_ENV, "VLLM_NO_USAGE_STATS": "1"}
    actor: dict[str, Any] = {"num_cpus": 0}  # the engine's own bundle is what takes CPUs and GPUs
    if needs.memory is not None:
        actor["memory"] = needs.memory.num_bytes
    made: dict[str, Any] = {
        "model_loading_config": {"model_id": base.name, "model_source": str(base.folder)},
        "runtime_env": {"env_vars": env},
        "deployment_config": {"name": base.name, "num_replicas": deployment.replicas, "ray_actor_options": actor},
    }
    bundle: dict[str, float] = {"CPU": needs.cpu or 1}
    if needs.gpu is None:
        # Compiling kernels for a CPU costs minutes and saves little; float32 is what a CPU computes in.
        engine |= {"enforce_eager": True, "dtype": "float32"}
        env["VLLM_CPU_KVCACHE_SPACE"] = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")
        made["accelerator_config"] = {"kind": "cpu"}
    else:
        engine["tensor_parallel_size"] = max(1, int(needs.gpu.count))
        bundle["GPU"] = min(1.0, needs.gpu.count)
        made["accelerator_config"] = {"kind": "gpu"}
        if needs.gpu.type is not None:
            made["accelerator_type"] = needs.gpu.type.upper()
    made["placement_group_config"] = {"bundle_per_worker": bundle}
    made["engine_kwargs"] = {**engine, **deployment.engine_kwargs}
    return made
