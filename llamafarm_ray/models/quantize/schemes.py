"""Quantization schemes by name: the format of the files, what serves them, and the difference that each may cost."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

from llamafarm_ray.errors import InputError, did_you_mean
from llamafarm_ray.models.convert.measure import Bound
from llamafarm_ray.models.convert.precisions import GGUF_PRECISIONS

__all__ = ["AUTO", "SCHEMES", "Device", "Scheme", "find_scheme", "servable_here"]

AUTO = "auto"
"""Stands for all schemes that this machine serves, of which measurements choose one."""

Family = Literal["compressed-tensors", "bitsandbytes", "gguf"]
Device = Literal["cpu", "cuda"]
"""Kinds of devices that engines compute on."""

_GGUF = "gguf-"
_UNQUANTIZED = {"fp32", "fp16", "bf16"}
_EIGHT_BITS, _FOUR_BITS = Bound(0.05, 1.05), Bound(0.5, 1.5)


@dataclass(frozen=True, slots=True)
class Scheme:
    """A quantization scheme.

    Attributes:
        name: its name for users.
        bound: the difference from the source that is let through without a budget.
        vllm_on: devices on which vLLM computes with it.
        tried_by_auto: True if `AUTO` stands for it, too.
    """

    name: str
    family: Family
    preset: str
    bound: Bound
    vllm_on: tuple[Device, ...] = ()
    tried_by_auto: bool = True

    @property
    def precision(self) -> str:
        """The precision of a GGUF file."""
        return self.name.removeprefix(_GGUF)

    @property
    def takes_calibration(self) -> bool:
        """True if its rounding can be fitted to texts."""
        if self.family == "gguf":
            return self.precision != "q8_0"  # which ggml rounds by itself
        return self.family == "compressed-tensors" and self.preset.startswith("W")


SCHEMES = {
    one.name: one
    for one in (
        Scheme("int8", "compressed-tensors", "W8A16", _EIGHT_BITS, ("cuda",)),
        Scheme("w8a8", "compressed-tensors", "W8A8", _EIGHT_BITS, ("cpu", "cuda")),
        Scheme("fp8", "compressed-tensors", "FP8_DYNAMIC", Bound(0.1, 1.1), ("cuda",)),
        Scheme("int4", "compressed-tensors", "W4A16", _FOUR_BITS, ("cpu", "cuda")),
        Scheme("nf4", "bitsandbytes", "nf4", _FOUR_BITS),
        *(
            Scheme(
                f"{_GGUF}{name}",
                "gguf",
                name,
                precision.bound,
                tried_by_auto=name in {"q8_0", "q6_k", "q5_k_m", "q4_k_m"},
            )
            for name, precision in GGUF_PRECISIONS.items()
            if name not in _UNQUANTIZED
        ),
    )
}
"""Schemes by name. vLLM computes on a CPU with those that it has kernels for there."""


def find_scheme(name: str) -> Scheme:
    """Return the scheme of that name, in any case of letters.

    Raises:
        InputError: there is none.
    """
    found = SCHEMES.get(name.lower())
    if found is None:
        hint = did_you_mean(name, [AUTO, *SCHEMES]) or f"Use {AUTO}, {', '.join(SCHEMES)}."
        raise InputError(f"There is no quantization scheme {name!r}.", hint=hint)
    return found


def servable_here(device: Device) -> list[Scheme]:
    """Return the schemes of `AUTO` that an installed engine serves on a device with the weights packed.

    Engine transformers expands the weights of compressed-tensors while it loads them, so it saves nothing by them.
    """
    has_llama_cpp = importlib.util.find_spec("xllamacpp") is not None
    return [
        scheme
        for scheme in SCHEMES.values()
        if scheme.tried_by_auto and (has_llama_cpp if scheme.family == "gguf" else _is_served(scheme, device))
    ]


def _is_served(scheme: Scheme, device: Device) -> bool:
    if scheme.family == "bitsandbytes":  # engine transformers computes with its blocks on both
        return True
    return device in scheme.vllm_on and importlib.util.find_spec("vllm") is not None
