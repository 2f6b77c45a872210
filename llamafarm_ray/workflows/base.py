"""The base model of a configuration, found and looked at before anything expensive starts."""

from __future__ import annotations

from pathlib import Path

from llamafarm_ray.models.folder import check_base_model, check_served_model
from llamafarm_ray.registry import BaseModel, RegistryApi, base_here, find_base, open_registry

__all__ = ["CHECKPOINTS", "fetch_base", "servable_base", "usable_base"]

CHECKPOINTS = "checkpoints"
"""Folder of a home in a bucket, for the checkpoints of runs on several nodes."""


def fetch_base(base: BaseModel, home: str) -> Path:
    """Return the folder of a base model on this node, fetched from the registry's home or its source if need be."""
    return base_here(base, open_registry(home))


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
