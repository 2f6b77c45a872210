"""How much of a node's memory a replica takes at least: what models that take turns share a node's memory by."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamafarm_ray.config import Deployment
from llamafarm_ray.config.deployment import EngineName
from llamafarm_ray.config.values import MemorySize
from llamafarm_ray.errors import InputError
from llamafarm_ray.models.folder import gguf_file, onnx_file
from llamafarm_ray.registry import BaseModel
from llamafarm_ray.storage.safetensors import TensorEntry, read_tensors

__all__ = ["MemoryNeed", "kv_cache_environment", "memory_need", "with_memory"]

_GIB: Final = 2**30
_PROCESSES: Final = {"vllm": 1.3 * _GIB, "transformers": 0.5 * _GIB, "onnx": 0.5 * _GIB, "gguf": 0.2 * _GIB}
"""What a replica takes besides a model, with all the libraries that it imports: measured with a model of a MB, as their
share of the pages that they have (PSS): 1.31, 0.45, 0.47 and 0.18 GiB."""
_KV_VARIABLE: Final = "VLLM_CPU_KVCACHE_SPACE"
_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})
_DTYPE_BYTES: Final = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
_MATRIX: Final = 2


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What a replica takes of its node's memory, at least: answers under way come on top of it, where vLLM is not.

    Attributes:
        weights_bytes: the base model, in the dtype that the engine computes in.
        cache_bytes: what vLLM sets aside for keys and values.
        slots_bytes: what vLLM sets aside for adapters, whatever is in them.
        process_bytes: the processes themselves.
    """

    weights_bytes: int
    cache_bytes: int
    slots_bytes: int
    process_bytes: int

    @property
    def num_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.cache_bytes + self.slots_bytes + self.process_bytes


def kv_cache_environment() -> dict[str, str]:
    """How many GiB vLLM on a CPU sets aside for keys and values: what the environment says, or 1."""
    return {_KV_VARIABLE: os.environ.get(_KV_VARIABLE, "1")}


def memory_need(engine: EngineName, base: BaseModel, deployment: Deployment, num_slots: int = 0) -> MemoryNeed | None:
    """What a replica takes of its node's memory; ``None`` where that is not known.

    It is not of your own code (engine ``custom``), and not where weights go to a GPU, whose memory Ray does not count.

    Args:
        engine: not ``auto``.
        base: the base model; its files are on this machine.
        deployment: what the engine is told.
        num_slots: how many adapters vLLM has room for.

    Raises:
        InputError: a file of the weights is not sound.
    """
    if engine not in _PROCESSES or deployment.resources.gpu is not None:
        return None
    process = int(_PROCESSES[engine])
    if engine == "gguf":
        return MemoryNeed(gguf_file(base.folder).stat().st_size, 0, 0, process)
    if engine == "onnx":
        graph = onnx_file(base.folder)  # its weights may be in files beside it
        return MemoryNeed(sum(path.stat().st_size for path in graph.parent.glob("*.onnx*")), 0, 0, process)
    tensors = list(_tensors(base.folder))
    dtype_bytes = _DTYPE_BYTES.get(str(deployment.engine_kwargs.get("dtype", "float32")))
    weights = sum(_bytes(tensor, dtype_bytes) for tensor in tensors)
    if engine != "vllm":
        return MemoryNeed(weights, 0, 0, process)
    slots = num_slots * sum(_slot_bytes(tensor, deployment.max_lora_rank, dtype_bytes) for tensor in tensors)
    cache = deployment.engine_kwargs.get("kv_cache_memory_bytes")
    return MemoryNeed(weights, cache if isinstance(cache, int) else _cache_bytes(), slots, process)


def with_memory(engine: EngineName, base: BaseModel, deployment: Deployment, num_slots: int = 0) -> Deployment:
    """A deployment whose replicas reserve the memory that they need, where it may scale to zero and does not say it.

    So applications that take turns do it before a node's memory has run out. Others reserve what they say.

    Raises:
        InputError: what it says is less than the weights alone take.
    """
    need, said = memory_need(engine, base, deployment, num_slots), deployment.resources.memory
    if need is None:
        return deployment
    if said is not None:
        if said.num_bytes < need.weights_bytes:
            raise InputError(
                f"deployment.resources.memory is {said}, and the weights of {base.name} alone take "
                f"{_gib(need.weights_bytes)}.",
                hint=f"A replica takes about {_gib(need.num_bytes)}.",
            )
        return deployment
    if deployment.auto_scaling is None or deployment.auto_scaling.min_replicas > 0:
        return deployment
    reserved = MemorySize.parse(need.num_bytes)
    return deployment.model_copy(update={"resources": deployment.resources.model_copy(update={"memory": reserved})})


def _tensors(folder: Path) -> Iterator[TensorEntry]:
    for path in sorted(folder.glob("*.safetensors")):
        yield from read_tensors(path)


def _bytes(tensor: TensorEntry, dtype_bytes: int | None) -> int:
    """Floating-point weights are held in the engine's dtype, quantised ones as they are."""
    if dtype_bytes is None or tensor.dtype not in _FLOATS:
        return tensor.end - tensor.begin
    return math.prod(tensor.shape) * dtype_bytes


def _slot_bytes(tensor: TensorEntry, rank: int, dtype_bytes: int | None) -> int:
    """The two low-rank matrices beside a linear layer's weights; embeddings and the output have none."""
    is_linear = len(tensor.shape) == _MATRIX and not any(part in tensor.name for part in ("embed", "lm_head", "wte"))
    return rank * sum(tensor.shape) * (dtype_bytes or _DTYPE_BYTES["bfloat16"]) if is_linear else 0


def _cache_bytes() -> int:
    said = kv_cache_environment()[_KV_VARIABLE]
    return int(said) * _GIB if said.isascii() and said.isdigit() else _GIB


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.1f} GiB"
