"""The base model of a configuration, found and looked at before anything expensive starts."""

from __future__ import annotations

from llamafarm_ray.models.folder import check_base_model, check_served_model
from llamafarm_ray.registry import BaseModel, RegistryApi, find_base

__all__ = ["servable_base", "usable_base"]


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
