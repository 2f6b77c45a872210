"""What a replica takes of a node's memory, from its model's files: what Ray reserves where nobody says how much.

Weights in the format that the engine computes in, adapters at their largest, the KV cache, and what the libraries take,
which was measured (tests/integration/test_serving.py holds vLLM to it).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from llamafarm_ray.config.deployment import EngineName

__all__ = ["replica_memory_bytes"]

_MIB: Final = 2**20
_GIB: Final = 2**30
_LIBRARIES: Final = {"vllm": 2200 * _MIB, "transformers": 1200 * _MIB, "onnx": 700 * _MIB, "gguf": 700 * _MIB}
"""What a replica holds of a model of no size: interpreter, Ray, torch and the engine's code, in all its processes."""
_BYTES: Final = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}


def replica_memory_bytes(
    engine: EngineName,
    model: Path,
    *,
    options: Mapping[str, Any],
    adapters: int,
    max_rank: int,
    kv_cache_gib: float = 0.0,
) -> int | None:
    """Bytes of host memory that a replica on a CPU takes; ``None`` where the files don't say.

    Args:
        engine: which.
        model: the base model's folder, or its GGUF file.
        options: ``deployment.engine_kwargs``.
        adapters: how many are in memory at most.
        max_rank: of an adapter.
        kv_cache_gib: what vLLM sets apart.
    """
    if engine == "custom":
        return None
    libraries = _LIBRARIES[engine]
    if engine in {"gguf", "onnx"}:
        files = [model] if model.is_file() else [path for path in model.rglob("*") if path.is_file()]
        return libraries + sum(path.stat().st_size for path in files)
    width = _BYTES.get(str(options.get("dtype", "float32")), 4)
    shapes = list(_shapes(model))
    if not shapes:
        return None
    weights = sum(math.prod(shape) for shape in shapes) * width
    adapter = sum(max_rank * sum(shape) for shape in shapes if len(shape) == 2) * width  # noqa: PLR2004  (a matrix)
    return libraries + weights + adapters * adapter + round(kv_cache_gib * _GIB)


def _shapes(folder: Path) -> Iterator[tuple[int, ...]]:
    """The shapes of a model's weights, from the files' headers."""
    from safetensors import safe_open  # noqa: PLC0415  (imports numpy)

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            yield from (tuple(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  (no mapping)
