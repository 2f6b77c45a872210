"""Deployment of a trained model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from llamafarm_ray.config.sections.base import Mistake, Names, Section, section
from llamafarm_ray.config.sections.journal import Journal
from llamafarm_ray.config.sections.limits import Limits
from llamafarm_ray.config.sections.rollout import Rollout, RolloutKind
from llamafarm_ray.config.values import FrozenMapping, GpuField, MemoryField

__all__ = [
    "DEFAULT_MAX_LORA_RANK",
    "DEFAULT_N_PARALLEL",
    "LORA_RANKS",
    "AutoScaling",
    "Deployment",
    "EngineName",
    "Resources",
    "Target",
]

Target = Literal["local", "ray", "kubernetes"]
EngineName = Literal["auto", "vllm", "transformers", "onnx", "gguf", "custom"]
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The rank limits that vLLM's engine can be started with."""
DEFAULT_MAX_LORA_RANK: Final = 64
DEFAULT_N_PARALLEL: Final = 4
"""Answers that llama.cpp writes at the same time by default."""


class Resources(Section):
    """Resources of each replica."""

    gpu: GpuField | None = Field(default=None, description="GPUs per replica: 1, 0.5, or with a type, '1x_a100'.")
    cpu: float | None = Field(default=None, gt=0, le=4096, description="CPU cores per replica.")
    memory: MemoryField | None = Field(
        default=None,
        description="Memory per replica, '32Gi' or a number of bytes. Without it none is reserved, or, where "
        "auto_scaling.min_replicas is 0, what a replica is reckoned to take.",
    )


class AutoScaling(Section):
    """Scaling of replicas with the load; the names are Ray Serve's."""

    min_replicas: int = Field(default=1, ge=0, le=10000, description="Fewest replicas; 0 stops all of them when idle.")
    max_replicas: int = Field(ge=1, le=10000, description="Most replicas.")
    target_ongoing_requests: float = Field(
        default=16.0,
        gt=0,
        le=1e6,
        description="Requests at each replica, running and waiting, that are aimed at: more add replicas, fewer take "
        "them away.",
    )
    upscale_delay_s: float = Field(
        default=30.0, ge=0, le=86400, description="Seconds that replicas must be too few before one is added."
    )
    downscale_delay_s: float = Field(
        default=300.0,
        ge=0,
        le=604800,
        description="Seconds that replicas must be too many before one is stopped, the last one too.",
    )
    cpu_threshold: float | None = Field(
        default=None, gt=0, le=100, description="Percent of the replicas' CPUs in use that adds a replica."
    )

    def mistakes(self) -> Iterator[Mistake]:
        """The least can't be more than the most."""
        if self.min_replicas > self.max_replicas:
            yield Mistake(
                ("min_replicas", "max_replicas"),
                f"is {self.min_replicas}, more than {{1}}, which is {self.max_replicas}.",
            )


class Deployment(Section):
    """Deployment of a model: target, resources, limits."""

    target: Target = Field(default="local", description="Place to run: this machine, a Ray cluster or Kubernetes.")
    image: str | None = Field(
        default=None,
        pattern=r"^\S+$",
        description="Container image with this package and its dependencies, for Kubernetes.",
    )
    host: str = Field(
        default="127.0.0.1", min_length=1, description="Address that is listened on; 0.0.0.0 is every one."
    )
    port: int = Field(default=8000, ge=1, le=65535, description="TCP port that is listened on.")
    replicas: int = Field(
        default=1,
        ge=0,
        le=10000,
        description="Copies of the model that answer; the first number if scaled, which may be 0 if that scales to 0.",
    )
    resources: Resources = section(Resources, "Resources that each replica needs.")
    engine: EngineName = Field(
        default="auto",
        description="Engine that computes the answers; auto: the one for the files, and vllm rather than transformers.",
    )
    auto_scaling: AutoScaling | None = Field(
        default=None, description="Change of the number of replicas with the load; unset: none."
    )
    adapters: Names = Field(default=(), description="Adapters to serve: folders or registry references.")
    max_loras: int = Field(
        default=4,
        ge=1,
        le=1024,
        description="Different adapters in use at the same time, beside a spare one; others take turns.",
    )
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = Field(
        default=DEFAULT_MAX_LORA_RANK,
        description="Highest rank of an adapter that can be served; memory is reserved for it.",
    )
    max_model_len: int | None = Field(
        default=None, ge=8, description="Longest prompt and answer in tokens; unset: the model's."
    )
    engine_kwargs: Annotated[Mapping[str, bool | int | float | str | None], AfterValidator(FrozenMapping)] = Field(
        default_factory=FrozenMapping, description="Further options of the engine, passed on as they are."
    )
    require_key: bool | None = Field(
        default=None,
        description="Require a key, the token of a principal of the registry; unset: once it has any.",
    )
    allowed_hosts: Names = Field(
        default=(),
        description="Names in the public DNS that requests without a key may call the server by; '*' is every one.",
    )
    allowed_origins: Names = Field(
        default=(),
        description="Origins, such as https://chat.example.com, whose web pages may send requests; '*' is every one.",
    )
    limits: Limits = section(Limits, "Limits for each key, and the queue of requests.")
    journal: Journal = section(Journal, "Records of requests for `models health` and `models usage`.")
    log_prompts: bool = Field(default=False, description="Write prompts to the replicas' logs, and into traces.")
    otlp_traces_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="URL that traces are sent to, such as http://127.0.0.1:4318/v1/traces; unset: that of "
        "OpenTelemetry's variables, or nowhere.",
    )
    strategy: RolloutKind | None = Field(
        default=None, description="Way in which a new version takes over; unset: at once. The same as rollout.kind."
    )
    rollout: Rollout = section(Rollout, "Rollouts: `llamafarm models rollout start`, and `deploy` with a strategy.")

    def mistakes(self) -> Iterator[Mistake]:
        """The first number of replicas must be one that scaling allows, and there is one way to take over."""
        scaling = self.auto_scaling
        if scaling is None and self.replicas == 0:
            yield Mistake(("replicas", "auto_scaling"), "is 0, and without {1} none would ever be started.")
        if scaling is not None and not scaling.min_replicas <= self.replicas <= scaling.max_replicas:
            low, high = scaling.min_replicas, scaling.max_replicas
            yield Mistake(
                ("replicas", "auto_scaling.min_replicas", "auto_scaling.max_replicas"),
                f"is {self.replicas}, outside of {{1}} to {{2}}, which is {low} to {high}.",
            )
        if self.strategy not in {None, self.rollout.kind}:
            yield Mistake(
                ("strategy", "rollout.kind"), f"is {self.strategy}, but {{1}} is {self.rollout.kind}; keep one."
            )
