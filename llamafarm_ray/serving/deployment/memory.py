"""Estimated memory of a replica on its node, by which models that take turns share the node."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamafarm_ray.capacity import machines
from llamafarm_ray.config import Deployment
from llamafarm_ray.config.sections.deployment import EngineName
from llamafarm_ray.config.values import MemorySize
from llamafarm_ray.errors import InputError
from llamafarm_ray.models.folder import gguf_file, onnx_file
from llamafarm_ray.models.packed_files import vllm_dtype_on_cpu
from llamafarm_ray.registry import BaseModel
from llamafarm_ray.serving.adapters.capacity import vllm_slots, whole_number
from llamafarm_ray.storage.formats.safetensors import TensorEntry, read_tensors
from llamafarm_ray.storage.formats.shards import INDEX

__all__ = ["MemoryNeed", "check_memory", "kv_cache_environment", "largest_node_bytes", "memory_need", "with_memory"]

logger = logging.getLogger("ray.serve.llamafarm")

_MIB: Final = 2**20
_GIB: Final = 2**30
_PROCESSES: Final = {"vllm": 1.3 * _GIB, "transformers": 0.5 * _GIB, "onnx": 0.5 * _GIB, "gguf": 0.2 * _GIB}
"""Memory of a replica besides its model, with the libraries that it imports. Measured with a model of a MB, as the
proportional share of pages (PSS): 1.31, 0.45, 0.47 and 0.18 GiB."""
_KV_VARIABLE: Final = "VLLM_CPU_KVCACHE_SPACE"
_FLOAT_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_DTYPE_BYTES: Final = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2, "auto": 2}
"""``auto`` is vLLM's, which holds weights that are saved in 32 bits in 16."""
_MATRIX: Final = 2


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Estimated memory of a replica on its node; answers under way add to it, except in vLLM.

    Attributes:
        weights_bytes: the base model, in the dtype that the engine computes in.
        cache_bytes: bytes that vLLM sets aside for keys and values.
        slots_bytes: bytes that vLLM sets aside for adapters, used or not.
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


def kv_cache_environment(deployment: Deployment) -> dict[str, str]:
    """Return the GiB that vLLM on a CPU sets aside for keys and values.

    Those are the ones of ``engine_kwargs.kv_cache_memory_bytes``, rounded up, else the environment's, or 1.
    """
    asked = whole_number(deployment.engine_kwargs.get("kv_cache_memory_bytes"))
    if asked is not None:
        return {_KV_VARIABLE: str(math.ceil(asked / _GIB))}
    return {_KV_VARIABLE: os.environ.get(_KV_VARIABLE) or "1"}


def memory_need(engine: EngineName, base: BaseModel, deployment: Deployment) -> MemoryNeed | None:
    """Estimate a replica's memory on its node; ``None`` if it is unknown.

    It is not of your own code (engine ``custom``), of weights that vLLM quantises while it loads them, and of those
    that go to a GPU, whose memory Ray does not count.

    Args:
        engine: not ``auto``.
        base: the base model; its files are on this machine.

    Raises:
        InputError: a file of the weights is not sound.
    """
    if engine not in _PROCESSES or deployment.resources.gpu is not None or "quantization" in deployment.engine_kwargs:
        return None
    process = int(_PROCESSES[engine])
    if engine == "gguf":
        return MemoryNeed(gguf_file(base.folder).stat().st_size, 0, 0, process)
    if engine == "onnx":
        graph = onnx_file(base.folder)  # larger ones have their weights beside them, in model.onnx_data
        return MemoryNeed(sum(path.stat().st_size for path in graph.parent.glob(f"{graph.name}*")), 0, 0, process)
    tensors = list(_tensors(base.folder))
    default = vllm_dtype_on_cpu(base.folder) if engine == "vllm" else "float32"
    dtype_bytes = _DTYPE_BYTES.get(str(deployment.engine_kwargs.get("dtype", default)), 2)
    weights = sum(_bytes(tensor, dtype_bytes) for tensor in tensors)
    if engine != "vllm":
        return MemoryNeed(weights, 0, 0, process)
    slot = sum(deployment.max_lora_rank * sum(one.shape) * dtype_bytes for one in tensors if len(one.shape) == _MATRIX)
    return MemoryNeed(weights, _cache_bytes(deployment), vllm_slots(deployment).used * slot, process)


def check_memory(need: MemoryNeed | None, base: BaseModel, deployment: Deployment) -> None:
    """Make sure that replicas are not given less memory than the weights alone take.

    Raises:
        InputError: they are.
    """
    said = deployment.resources.memory
    if need is not None and said is not None and said.num_bytes < need.weights_bytes:
        raise InputError(
            f"deployment.resources.memory is {said}, and the weights of {base.name} alone take "
            f"{_amount(need.weights_bytes)}.",
            hint=f"A replica takes about {_amount(need.num_bytes)}.",
        )


def with_memory(need: MemoryNeed | None, deployment: Deployment, largest_node_bytes: int) -> Deployment:
    """A deployment whose replicas reserve the memory that they need, where it may scale to zero and does not say it.

    So applications that take turns do it before a node's memory has run out. Nothing is reserved that no node of the
    cluster has: Ray would wait for one for ever, or for one whose memory its autoscaler can't look up.

    Args:
        need: of a replica, where it is known.
        largest_node_bytes: the most memory that Ray gives out on a node which has CPUs.
    """
    scaling = deployment.auto_scaling
    if need is None or deployment.resources.memory is not None or scaling is None or scaling.min_replicas > 0:
        return deployment
    if need.num_bytes > largest_node_bytes:
        logger.warning(
            "A replica needs about %s, and no node has that much: it reserves none.", _amount(need.num_bytes)
        )
        return deployment
    reserved = MemorySize.parse(need.num_bytes)
    return deployment.model_copy(update={"resources": deployment.resources.model_copy(update={"memory": reserved})})


def largest_node_bytes() -> int:
    """The most memory that Ray gives out on a node which has CPUs; 0 where this process is not connected to it."""
    import ray  # after the environment that its parts read when they are imported

    if not ray.is_initialized():
        return 0
    found = (one.resources for one in machines() if one.resources.get("CPU", 0) > 0)
    return max((int(has.get("memory", 0)) for has in found), default=0)


def _tensors(folder: Path) -> Iterator[TensorEntry]:
    """Yield the tensors that engines load; a second copy such as ``consolidated.safetensors`` is left out."""
    paths = sorted(folder.glob("*.safetensors"))
    index, whole = folder / INDEX, folder / "model.safetensors"
    if index.is_file():
        named = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        paths = [path for path in paths if path.name in named]
    elif whole.is_file():
        paths = [whole]
    for path in paths:
        yield from read_tensors(path)


def _bytes(tensor: TensorEntry, dtype_bytes: int) -> int:
    """Floating-point weights are held in the engine's dtype, quantised ones as they are."""
    size_bytes = tensor.end - tensor.begin
    own = _FLOAT_BYTES.get(tensor.dtype)
    return size_bytes if own is None else size_bytes // own * dtype_bytes


def _cache_bytes(deployment: Deployment) -> int:
    said = kv_cache_environment(deployment)[_KV_VARIABLE]
    return int(said) * _GIB if said.isascii() and said.isdigit() else _GIB


def _amount(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.1f} GiB" if num_bytes >= _GIB else f"{num_bytes / _MIB:.0f} MiB"
