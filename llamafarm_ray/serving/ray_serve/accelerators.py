"""Names of GPU models that Ray Serve LLM takes: those that Ray has a constant for."""

from __future__ import annotations

from ray.util.accelerators import accelerators

from llamafarm_ray.errors import InputError, did_you_mean

__all__ = ["accelerator_type"]

_NAMES: dict[str, str] = {
    name.casefold(): name
    for constant, name in vars(accelerators).items()
    if constant.startswith(("NVIDIA_", "AMD_", "INTEL_")) and isinstance(name, str)
} | {"a10": accelerators.NVIDIA_TESLA_A10G}


def accelerator_type(name: str) -> str:
    """Ray's name of a GPU model, such as ``A100`` of ``a100``.

    Raises:
        InputError: Ray knows no such model: a replica that asks for it would wait for ever.
    """
    found = _NAMES.get(name.casefold())
    if found is None:
        hint = did_you_mean(name.upper(), sorted(_NAMES.values()))
        raise InputError(f"deployment.resources.gpu: Ray knows no GPU {name!r}.", hint=hint)
    return found
