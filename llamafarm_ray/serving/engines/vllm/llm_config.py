"""The plain values of Ray's ``LLMConfig`` that an application sets. Neither Ray nor vLLM is imported."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

__all__ = ["DeploymentOptions", "LlmConfig", "ModelLoading"]


class ModelLoading(TypedDict):
    """The base model: its name in requests, and its folder."""

    model_id: str
    model_source: str


class _RuntimeEnvironment(TypedDict):
    """Environment variables of the replicas."""

    env_vars: dict[str, str]


class _AcceleratorConfig(TypedDict):
    """The kind of device that the engine computes on."""

    kind: Literal["cpu", "gpu"]


class _PlacementGroup(TypedDict):
    """Ray's resources for each worker of an engine, by name."""

    bundle_per_worker: dict[str, float]


class DeploymentOptions(TypedDict, total=False):
    """Options of the Serve deployment."""

    name: str
    ray_actor_options: dict[str, Any]
    num_replicas: int
    autoscaling_config: dict[str, object]
    graceful_shutdown_timeout_s: float


class LlmConfig(TypedDict):
    """Values of an ``LLMConfig``.

    Attributes:
        accelerator_type: Ray's name of a GPU's type, where it matters.
        engine_kwargs: vLLM's engine arguments, the user's own among them.
    """

    model_loading_config: ModelLoading
    runtime_env: _RuntimeEnvironment
    deployment_config: DeploymentOptions
    accelerator_config: _AcceleratorConfig
    accelerator_type: NotRequired[str]
    placement_group_config: _PlacementGroup
    engine_kwargs: dict[str, Any]
