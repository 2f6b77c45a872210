"""Weights in torch's pickle files as safetensors, by torch's loader for weights in a process with limits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.convert.conversion import copy_companions, copy_configuration
from llamafarm_ray.models.formats.pickle_imports import pickle_imports
from llamafarm_ray.storage.formats.safetensors import read_tensors
from llamafarm_ray.storage.formats.shards import INDEX, read_weight_map

__all__ = ["pickled_weights", "write_safetensors"]

_MODULE = "llamafarm_ray.models.convert.pickle_process"
_WHOLE = "pytorch_model.bin"
_PICKLE_INDEX = f"{_WHOLE}.index.json"
_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt"})
_NO_WEIGHTS = frozenset({"training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt"})
_SHOWN_NAMES = 8

_CPU_S, _BYTES_PER_S = 120, 10 << 20
"""Computing time of a file of any size, and more of it by size."""
_WALL_TIMES = 10


def pickled_weights(folder: Path) -> list[Path]:
    """Return the pickle files that hold a model's weights.

    Args:
        folder: a model in transformers' layout.

    Raises:
        InputError: there are none, the choice is not clear, or there are safetensors beside them.
    """
    if any(folder.glob("*.safetensors")):
        raise InputError(f"{str(folder)!r} has safetensors.", hint="Leave --convert-pickle out: they are used.")
    if (folder / _PICKLE_INDEX).is_file():
        shards = read_weight_map((folder / _PICKLE_INDEX).read_bytes(), shown=str(folder / _PICKLE_INDEX))
        found = [folder / name for name in sorted(set(shards.values()))]
    elif (folder / _WHOLE).is_file():
        found = [folder / _WHOLE]
    else:
        candidates = (path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
        found = sorted(path for path in candidates if path.name not in _NO_WEIGHTS and "rng_state" not in path.name)
        if len(found) != 1:
            listed = ", ".join(path.name for path in found) or "none"
            raise InputError(
                f"{str(folder)!r} should hold its weights in {_WHOLE} or in one other pickle file; it holds {listed}.",
                hint="Give a folder in transformers' layout.",
            )
    for path in found:
        if path.is_symlink() or not path.is_file():
            raise InputError(f"{str(path)!r} is no plain file.", hint="Copy it to there.")
    return found


def write_safetensors(folder: Path, pickles: Sequence[Path], output: Path) -> None:
    """Convert a folder's pickles one by one, each in a process of its own, and copy the files beside them.

    The process has limits of memory, computing time and size of files, and none of this process's environment. Its
    loader makes tensors and plain values alone. Each tensor is read back and compared.

    Args:
        folder: a model in transformers' layout.
        pickles: those of its files that hold the weights.
        output: an existing folder.

    Raises:
        InputError: a pickle is refused, or holds something else than weights.
    """
    weight_map: dict[str, str] = {}
    for number, path in enumerate(pickles, 1):
        name = "model.safetensors" if len(pickles) == 1 else f"model-{number:05}-of-{len(pickles):05}.safetensors"
        _convert_apart(path, output / name)
        for entry in read_tensors(output / name):
            if entry.name in weight_map:
                raise InputError(f"Two pickles of {str(folder)!r} have the tensor {entry.name!r}.", hint="Keep one.")
            weight_map[entry.name] = name
    if len(pickles) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (output / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    copy_configuration(folder, output)
    copy_companions(folder, output)


def _convert_apart(path: Path, output: Path) -> None:
    size_bytes = path.stat().st_size
    cpu_s = _CPU_S + size_bytes // _BYTES_PER_S
    scratch = output.with_suffix(".scratch")
    scratch.mkdir()
    python_path = os.pathsep.join(filter(None, sys.path))
    try:
        done = subprocess.run(
            [sys.executable, "-m", _MODULE, str(path.absolute()), str(output.absolute()), str(cpu_s)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
            timeout=cpu_s * _WALL_TIMES,
            cwd=scratch,
            env={"PATH": os.defpath, "HOME": str(scratch), "TMPDIR": str(scratch), "PYTHONPATH": python_path},
        )
    except subprocess.TimeoutExpired:
        raise _refusal(path, f"it took more than {cpu_s * _WALL_TIMES} s") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if done.returncode < 0:
        raise _refusal(path, f"reading it was ended by signal {-done.returncode}: it asks for too much")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise _refusal(path, lines[-1].rstrip(".")[:300] if lines else "it can't be read")


def _refusal(path: Path, reason: str) -> InputError:
    with path.open("rb") as file:
        imports = pickle_imports(file)
    listed = ", ".join(imports[:_SHOWN_NAMES]) + (", ..." if len(imports) > _SHOWN_NAMES else "")
    return InputError(
        f"The pickle {path.name} is not converted: {reason}. It imports: {listed or 'nothing that can be listed'}.",
        hint="Take the model in safetensors from where it was published.",
    )
