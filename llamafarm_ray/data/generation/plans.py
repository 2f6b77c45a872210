"""The plan of the engine that was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.config import QaGeneration
from llamafarm_ray.data.generation.base_model import BaseModelPlan
from llamafarm_ray.data.generation.base_model.settings import Sampling
from llamafarm_ray.data.generation.choice import Choice
from llamafarm_ray.data.generation.cluster import VllmPlan
from llamafarm_ray.data.generation.endpoint import EndpointPlan
from llamafarm_ray.data.generation.writer import WriterPlan

__all__ = ["EnginePlan", "Machine", "plan_writer"]

EnginePlan = WriterPlan | VllmPlan
"""Settings of an engine that asks a model: of one with a writer in an actor, or of vLLM with engines of its own."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Resources of the node that a model computes on."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0


def plan_writer(
    choice: Choice, qa: QaGeneration, *, cache: str, environment: Mapping[str, str], machine: Machine | None = None
) -> EnginePlan | None:
    """Return the plan of a model's writer; None for rules, which need none.

    Args:
        cache: folder or URI for answers that must not be asked for twice.
        environment: environment variables, for the endpoint's key.
        machine: for a model that computes in this cluster; by default one CPU.

    Raises:
        InputError: the engine lacks a setting.
    """
    match choice.generator:
        case "rules":
            return None
        case "endpoint":
            key = environment.get(qa.endpoint.api_key_env, "")
            return EndpointPlan.of(choice, qa, api_key=key, cache=cache)
        case "vllm":
            machine = machine or Machine()
            return VllmPlan.of(choice, qa, num_cpus=machine.num_cpus, num_gpus=machine.num_gpus, cache=cache)
        case "base_model":
            machine = machine or Machine()
            sampling = Sampling() if qa.phrasings is None else Sampling(phrasings=qa.phrasings)
            return BaseModelPlan(Path(choice.model), machine.num_cpus, machine.num_gpus, sampling, cache=cache)
