"""The fine-tuning methods, one small file each."""

from __future__ import annotations

from llamafarm_ray.errors import UnsupportedError, did_you_mean
from llamafarm_ray.training.methods.adapter import AdapterMethod
from llamafarm_ray.training.methods.base import Method, Precision, Server, Task, check_saved_weights
from llamafarm_ray.training.methods.full import FullMethod
from llamafarm_ray.training.methods.hybrid import HybridLoraAdapterMethod
from llamafarm_ray.training.methods.lora import LoraMethod
from llamafarm_ray.training.methods.prefix_tuning import PrefixTuningMethod
from llamafarm_ray.training.methods.qlora import QloraMethod

__all__ = ["METHODS", "Method", "Precision", "Server", "Task", "check_saved_weights", "find_method"]

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (LoraMethod, QloraMethod, FullMethod, AdapterMethod, PrefixTuningMethod, HybridLoraAdapterMethod)
}
"""Every method by its name in ``fine_tuning.method``."""


def find_method(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        UnsupportedError: there is no engine for it.
    """
    if name not in METHODS:
        raise UnsupportedError(
            f"fine_tuning.method {name!r} can't be trained by this release.", hint=did_you_mean(name, METHODS)
        )
    return METHODS[name]
