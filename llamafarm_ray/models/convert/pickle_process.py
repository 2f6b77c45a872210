"""The process of `llamafarm_ray.models.convert.pickled`: one pickle file becomes a safetensors file, under limits."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from llamafarm_ray.storage.process_limits import limit_memory, lower_limit

__all__ = ["main"]

_ZIP = b"PK\x03\x04"
_STATES = ("state_dict", "model")
"""Keys below which programs put the weights, beside other facts of a checkpoint."""

_MEMORY_TIMES, _MEMORY_BYTES = 4, 2 << 30
"""Memory beyond torch's own: a file's tensors, the clones of shared ones, and the bytes written of them."""

_DISK_TIMES, _DISK_BYTES = 2, 64 << 20


def main(arguments: Sequence[str]) -> int:
    """Convert one file under limits.

    Args:
        arguments: the pickle, the safetensors file and the seconds of computing.
    """
    path, output, cpu_s = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    size_bytes = path.stat().st_size
    torch.set_num_threads(1)
    limit_memory(_MEMORY_TIMES * size_bytes + _MEMORY_BYTES)
    lower_limit(resource.RLIMIT_CPU, cpu_s)
    lower_limit(resource.RLIMIT_FSIZE, _DISK_TIMES * size_bytes + _DISK_BYTES)
    lower_limit(resource.RLIMIT_CORE, 0)
    try:
        _convert(path, output)
    except Exception as error:  # noqa: BLE001 - the process boundary: the parent reads the last line
        sys.stderr.write(f"\n{_said(error)}\n")
        return 1
    return 0


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "eights only load failed" in text:  # followed by advice on how to load it all the same
        return "torch's loader for weights refuses it"
    return f"{type(error).__name__}: {text[:200]}" if not isinstance(error, ValueError) else text[:200]


def _convert(path: Path, output: Path) -> None:
    with path.open("rb") as file:
        is_archive = file.read(len(_ZIP)) == _ZIP
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    tensors = _apart(_weights(loaded))
    save_file(tensors, output, metadata={"format": "pt"})
    with safe_open(output, framework="pt") as written:
        for name, tensor in tensors.items():
            if not torch.equal(_bytes(written.get_tensor(name)), _bytes(tensor)):
                raise ValueError(f"the tensor {name!r} was not written as it was read")


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _weights(loaded: object) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint, by name.

    Raises:
        ValueError: it holds something else.
    """
    for key in _STATES:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ValueError(f"it holds a {type(loaded).__name__}, and no tensors by name")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"its entry {str(name)[:80]!r} is a {type(value).__name__}, and no tensor")
        if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu" or not value.numel():
            raise ValueError(f"its tensor {name[:80]!r} is sparse, quantized, empty or without values")
    return dict(loaded)


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors of which each has its own memory, as the format requires."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        own = tensor.detach().contiguous()
        place = own.untyped_storage().data_ptr()
        is_part = own.numel() * own.element_size() < own.untyped_storage().nbytes()
        found[name] = own.clone() if place in seen or is_part else own
        seen.add(place)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
