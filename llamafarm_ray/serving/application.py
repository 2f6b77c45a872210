"""The Serve application that a configuration describes: ``import_path: llamafarm_ray.serving.application:build``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llamafarm_ray.config import Config, Deployment, Limits, parse_config
from llamafarm_ray.config.sections.deployment import DEFAULT_N_PARALLEL, EngineName
from llamafarm_ray.errors import ClusterError, InputError
from llamafarm_ray.models.packed_files import vllm_dtype_on_cpu
from llamafarm_ray.models.sentence_files import gives_vectors, pooling_of
from llamafarm_ray.registry import BaseModel, RegistryApi, find_base, open_registry
from llamafarm_ray.serving.adapters.capacity import room_of, vllm_slots, whole_number
from llamafarm_ray.serving.deployment.autoscaling import DEREGISTRATION_S, DRAIN_S, most_replicas, scaling_options
from llamafarm_ray.serving.deployment.memory import (
    check_memory,
    kv_cache_environment,
    largest_node_bytes,
    memory_need,
    with_memory,
)
from llamafarm_ray.serving.engines.choice import choose_engine
from llamafarm_ray.serving.engines.vllm.llm_config import LlmConfig
from llamafarm_ray.serving.engines.vllm.numbers import WORKER_EXTENSION
from llamafarm_ray.serving.gateway.auth import check_keys
from llamafarm_ray.serving.gateway.validation import SESSION_HEADER
from llamafarm_ray.serving.journal.ledger import Devices
from llamafarm_ray.serving.telemetry.tracing import tracing_environment
from llamafarm_ray.telemetry.traces import traces_endpoint
from llamafarm_ray.types import AUTO_MODEL

if TYPE_CHECKING:
    from ray.serve import Application

    from llamafarm_ray.serving.deployment.adapter_manager import Served

__all__ = ["SERVE_ENV", "arguments", "build"]

SERVE_ENV = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
    "RAY_SERVE_INGRESS_REQUEST_ROUTER_FORWARD_BODY": "1",
    # Of each of the proxy's buffers. A larger body is resolved by the replica that gets it, and not by the router.
    # Headers that don't fit get HAProxy's HTML, so there is half as much room again as the gateway allows.
    "RAY_SERVE_HAPROXY_INGRESS_REQUEST_ROUTER_BUFSIZE": "98304",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "98304",  # the same where no application has a router
    "RAY_SERVE_SESSION_ID_HEADER_KEY": SESSION_HEADER,
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(DRAIN_S),
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DEREGISTRATION_S),
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",  # a HAProxy that died is noticed after three of them
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "llamafarm_ray.serving.deployment.cold_start:middlewares",
}
"""Environment of every process of the cluster, and of this one before ray.serve is imported."""

_ONE_LOOP_ENV = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
"""Keeps Ray Serve's event loop and the application's one: by default each piece of an answer crosses threads. (Engines
that compute in the replica's process need the loops apart.)"""


_TELLING = frozenset({"vllm", "transformers"})
"""Engines that tell the log-probabilities of any answer; llama.cpp refuses some requests that ask for them."""


def arguments(config: Config, home: str) -> dict[str, object]:
    """The plain values that :func:`build` takes for a configuration: all that an application depends on.

    Args:
        config: the configuration; keys with their default value are left out.
    """
    deployment = config.deployment.model_dump(mode="json", exclude_defaults=True)
    return {"home": home, "base_model": config.base_model, "deployment": deployment}


def build(args: dict[str, object]) -> Application:
    """The application for a configuration given as plain values; ``serve deploy`` and ``serve run`` call this.

    Raises:
        ConfigError: the configuration has mistakes.
        ClusterError: the environment lacks :data:`SERVE_ENV`, or did when ``ray.serve`` was imported.
        InputError: the endpoint would be open to a network without keys, see
            :func:`llamafarm_ray.serving.gateway.auth.check_keys`; nobody could name the base model; or replicas would
            have less memory than its weights take.
        UnsupportedError: the engine that is asked for can't serve the base model or an adapter.
    """
    config = parse_config(args, source="the application's args")
    _check_environment()
    registry = open_registry(config.home)
    base = find_base(config.base_model, registry)
    if base.name == AUTO_MODEL:
        what = f"The base model's name is {AUTO_MODEL!r}, which asks for any model."
        raise InputError(what, hint="Rename its folder.")
    check_keys(config.deployment, registry.refresh())
    on_gpu = config.deployment.resources.gpu is not None
    engine = choose_engine(config.deployment.engine, base, config.deployment.adapters, registry, on_gpu=on_gpu)
    need = memory_need(engine, base, config.deployment)
    check_memory(need, base, config.deployment)
    sized = with_memory(need, config.deployment, largest_node_bytes())
    config = config.model_copy(update={"deployment": sized})
    _check_ray_serve()
    from llamafarm_ray.serving.ray_serve.state import ROUTER  # Ray Serve reads the environment then

    if base.name == ROUTER:
        raise InputError(f"The base model's name is {ROUTER!r}, as the router's is.", hint="Rename its folder.")
    served = _served(config, registry, base, engine)
    if engine != "vllm":
        from llamafarm_ray.serving.deployment import engine_replica

        settings = engine_replica.engine_settings(engine, base, config.deployment)
        return engine_replica.compose(settings, served, config.deployment, env=_engine_env(config))
    from llamafarm_ray.serving.deployment.vllm_replica import compose

    llm_config = _llm_config(config, base)
    if config.deployment.engine_kwargs:
        _check(llm_config)
    return compose(llm_config, served, is_routed=most_replicas(config.deployment) > 1, router_env=_ONE_LOOP_ENV)


def _check_environment() -> None:
    """Make sure that this process has the environment that Ray Serve's processes need.

    Raises:
        ClusterError: it has not.
    """
    for name, value in SERVE_ENV.items():
        if os.environ.get(name) != value:
            raise ClusterError(
                f"{name} is not {value} in this process.",
                hint="Start Ray with it: env " + " ".join(f"{k}={v}" for k, v in SERVE_ENV.items()) + " ray start ...",
            )


def _check_ray_serve() -> None:
    """Make sure that Ray Serve, which reads the environment when it is imported, has read that one.

    Raises:
        ClusterError: it has not.
    """
    from llamafarm_ray.serving.ray_serve.state import is_behind_haproxy  # it imports ray.serve

    if not is_behind_haproxy():
        raise ClusterError(
            "ray.serve was imported before its environment was set, and reads it once.",
            hint="Start anew, and connect before the first `import ray.serve`, or set this in the environment: "
            + " ".join(f"{name}={value}" for name, value in SERVE_ENV.items()),
        )


def _served(config: Config, registry: RegistryApi, base: BaseModel, engine: EngineName) -> Served:
    """Return the settings of replicas and router that all engines share."""
    from llamafarm_ray.serving.deployment.adapter_manager import Served  # it imports ray.serve

    deployment = config.deployment
    return Served(
        registry.home.uri,
        base.name,
        base.digest,
        deployment.adapters,
        tuple(registry.resolve(reference).ref for reference in deployment.adapters),
        rollout=deployment.rollout if deployment.strategy is not None else None,
        require_key=deployment.require_key,
        limits=_limits(deployment, engine),
        log_prompts=deployment.log_prompts,
        allowed_hosts=(deployment.host, *deployment.allowed_hosts),
        allowed_origins=deployment.allowed_origins,
        otlp_traces_endpoint=_traces(config),
        room=room_of(deployment, engine),
        base_reference=base.reference,
        journal=deployment.journal,
        tells_logprobs=engine in _TELLING,
        devices=_devices(deployment),
    )


def _check(llm_config: LlmConfig) -> None:
    """Make sure that vLLM has every option that it is given; importing it takes seconds.

    Raises:
        InputError: it does not.
    """
    try:
        from llamafarm_ray.serving.engines.vllm.ray_llm import check
    except ImportError:  # this machine has no vLLM; the replicas say what is wrong
        return
    try:
        check(llm_config)
    except ValueError as error:
        raise InputError(f"deployment.engine_kwargs: {error}", hint="They are vLLM's engine arguments.") from None


def _limits(deployment: Deployment, engine: EngineName) -> Limits:
    """Return the limits; an engine's own option decides its concurrency."""
    options = deployment.engine_kwargs
    given = options.get("n_parallel", DEFAULT_N_PARALLEL) if engine == "gguf" else options.get("max_num_seqs")
    num_running = whole_number(given)
    if num_running is None:
        return deployment.limits
    return deployment.limits.model_copy(update={"running_requests": num_running})


def _devices(deployment: Deployment) -> Devices:
    needs = deployment.resources
    if needs.gpu is None:
        return Devices(needs.cpu or 1)
    return Devices(needs.cpu or 1, needs.gpu.count, (needs.gpu.type or "").upper())


def _traces(config: Config) -> str | None:
    """Return the URL that spans are sent to, or None."""
    return traces_endpoint(config.deployment.otlp_traces_endpoint, os.environ)


def _engine_env(config: Config) -> dict[str, str]:
    """Return the environment of every replica."""
    return {**SERVE_ENV, "HF_HUB_OFFLINE": "1", **tracing_environment(_traces(config), os.environ)}


def _threads(deployment: Deployment) -> dict[str, str]:
    """Return the setting for the threads of an engine on a CPU.

    By itself vLLM binds them to all of the machine's cores but one, which engines that share a machine do alike.
    """
    cpu = deployment.resources.cpu
    if "VLLM_CPU_OMP_THREADS_BIND" in os.environ or (most_replicas(deployment) == 1 and cpu is None):
        return {}
    return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(max(1, int(cpu or 1)))}


def _llm_config(config: Config, base: BaseModel) -> LlmConfig:
    """The plain values of Ray's LLMConfig."""
    from llamafarm_ray.serving.ray_serve.accelerators import accelerator_type

    deployment, needs = config.deployment, config.deployment.resources
    slots, loaded = vllm_slots(deployment)
    engine: dict[str, object] = {
        "enable_lora": True,
        "max_loras": slots,
        "max_cpu_loras": loaded,
        "max_lora_rank": deployment.max_lora_rank,
        "max_num_seqs": deployment.limits.running_requests,
        "enable_log_requests": False,  # the gateway logs prompts, where that is asked for
        "worker_extension_cls": WORKER_EXTENSION,
    }
    if gives_vectors(base.folder):
        # As transformers does it, whatever else the files ask for.
        pooler = {"pooling_type": pooling_of(base.folder).upper(), "use_activation": True}
        engine |= {"runner": "pooling", "pooler_config": pooler}
    if deployment.max_model_len is not None:
        engine["max_model_len"] = deployment.max_model_len
    if (traces := _traces(config)) is not None:
        engine["otlp_traces_endpoint"] = traces
    env = {**_engine_env(config), **_ONE_LOOP_ENV, "VLLM_NO_USAGE_STATS": "1", "VLLM_COMPUTE_NANS_IN_LOGITS": "1"}
    actor: dict[str, object] = {"num_cpus": 0}  # the engine's own bundle is what takes CPUs and GPUs
    if needs.memory is not None:
        actor["memory"] = needs.memory.num_bytes
    bundle: dict[str, float] = {"CPU": needs.cpu or 1}
    if needs.gpu is None:
        # Compiling kernels for a CPU costs minutes and saves little.
        engine |= {"enforce_eager": True, "dtype": vllm_dtype_on_cpu(base.folder)}
        env |= {**kv_cache_environment(deployment), **_threads(deployment)}
    else:
        engine["tensor_parallel_size"] = max(1, int(needs.gpu.count))
        bundle["GPU"] = min(1.0, needs.gpu.count)
    made = LlmConfig(
        model_loading_config={"model_id": base.name, "model_source": str(base.folder)},
        runtime_env={"env_vars": env},
        deployment_config={"name": base.name, **scaling_options(deployment), "ray_actor_options": actor},
        accelerator_config={"kind": "cpu" if needs.gpu is None else "gpu"},
        placement_group_config={"bundle_per_worker": bundle},
        engine_kwargs={**engine, **deployment.engine_kwargs},
    )
    if needs.gpu is not None and needs.gpu.type is not None:
        made["accelerator_type"] = accelerator_type(needs.gpu.type)
    return made
