"""The base model of a configuration, found and looked at before anything expensive starts."""

from __future__ import annotations

from pathlib import Path

from llamafarm_ray.errors import InputError, LlamaFarmError
from llamafarm_ray.models.folder import check_base_model, check_served_model
from llamafarm_ray.registry import BaseModel, RegistryApi, base_here, find_base, open_registry

__all__ = ["CHECKPOINTS", "GENERATION_CACHE", "fetch_base", "fetch_everywhere", "servable_base", "usable_base"]

CHECKPOINTS = "checkpoints"
"""Folder of a home in a bucket, for the checkpoints of runs on several nodes."""

GENERATION_CACHE = "cache/generation"
"""Folder of a home with the answers of models that write pairs, and their results on lessons; may be deleted."""


def fetch_base(base: BaseModel, home: str) -> Path:
    """Return the folder of a base model on this node, fetched from the registry's home or its source if need be."""
    return base_here(base, open_registry(home))


def fetch_everywhere(base: BaseModel, home: str) -> None:
    """Fetch a base model to every node of the connected cluster, for work that Ray may place on any of them.

    Raises:
        InputError: a node keeps it in another folder.
        LlamaFarmError: a node can't fetch it.
    """
    import ray  # not needed to look at a base model
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not ray.is_initialized():
        return
    here, fetch = ray.get_runtime_context().get_node_id(), ray.remote(num_cpus=0)(fetch_base)
    others = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    others.pop(here)
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in others]
    fetching = [fetch.options(scheduling_strategy=place).remote(base, home) for place in places]
    for address, one in zip(others.values(), fetching, strict=True):
        try:
            folder = ray.get(one)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, LlamaFarmError) else error from None
        if folder != base.folder:
            raise InputError(
                f"The base model is in {base.folder} here and in {folder} on {address}.",
                hint="Set LLAMAFARM_CACHE to the same folder on all nodes.",
            )


def usable_base(reference: str | None, registry: RegistryApi) -> BaseModel:
    """The base model of a reference, with everything in its folder that training needs.

    Raises:
        InputError: there is no reference, or the folder lacks config, safetensors weights or tokenizer.
        NotFoundError: nothing of that name is found.
    """
    base = find_base(reference, registry)
    check_base_model(base.folder)
    return base


def servable_base(reference: str | None, registry: RegistryApi) -> BaseModel:
    """The base model of a reference, with everything in its folder that one of the engines needs.

    Raises:
        InputError: there is no reference, or the folder lacks weights, config or tokenizer.
        NotFoundError: nothing of that name is found.
    """
    base = find_base(reference, registry)
    check_served_model(base.folder)
    return base
