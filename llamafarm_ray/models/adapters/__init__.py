"""Adapters as folders on disk: their configuration, the proof that they fit a base model, and loading them by peft."""

from llamafarm_ray.models.adapters.config import WEIGHTS, AdapterConfig, read_adapter_config
from llamafarm_ray.models.adapters.loading import add_adapter, load_adapter
from llamafarm_ray.models.adapters.needs import why_not_merged, why_not_vllm
from llamafarm_ray.models.adapters.proof import MisnamedError, Proof, check_adapter, prove_adapter
from llamafarm_ray.models.adapters.renaming import Renaming, rename_tensors

__all__ = [
    "WEIGHTS",
    "AdapterConfig",
    "MisnamedError",
    "Proof",
    "Renaming",
    "add_adapter",
    "check_adapter",
    "load_adapter",
    "prove_adapter",
    "read_adapter_config",
    "rename_tensors",
    "why_not_merged",
    "why_not_vllm",
]
