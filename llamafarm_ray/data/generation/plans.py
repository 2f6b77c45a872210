"""The plan of the engine that was chosen."""

from __future__ import annotations

from collections.abc import Mapping

from llamafarm_ray.config import QaGeneration
from llamafarm_ray.data.generation.choice import Choice
from llamafarm_ray.data.generation.endpoint import EndpointPlan
from llamafarm_ray.data.generation.writer import WriterPlan
from llamafarm_ray.errors import UnsupportedError

__all__ = ["plan_writer"]


def plan_writer(choice: Choice, qa: QaGeneration, *, cache: str, environment: Mapping[str, str]) -> WriterPlan | None:
    """Return the plan of a model's writer; None for rules, which need none.

    Args:
        choice: the engine.
        qa: the section of the configuration.
        cache: folder or URI for answers that must not be asked for twice.
        environment: environment variables, for the endpoint's key.

    Raises:
        InputError: the engine lacks a setting.
    """
    match choice.generator:
        case "rules":
            return None
        case "endpoint":
            key = environment.get(qa.endpoint.api_key_env, "")
            return EndpointPlan.of(choice, qa, api_key=key, cache=cache)
        case "base_model":
            raise UnsupportedError("This release can't let the base model write pairs.", hint="Use rules.")
