"""Indexes of weights that are split over several safetensors files: ``model.safetensors.index.json``.

The format is https://huggingface.co/docs/transformers/big_models: an object whose ``weight_map`` has the file of each
tensor.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.formats.safetensors import read_tensors

__all__ = ["INDEX", "check_shards", "is_index", "missing_shards", "read_weight_map", "refuse_missing"]

INDEX = "model.safetensors.index.json"
"""The index that transformers reads, where there is no file of ``_WHOLE``'s name."""

_WHOLE = "model.safetensors"
_SUFFIX = ".safetensors.index.json"
_MAX_BYTES = 1 << 26
_SHOWN_NAMES = 3


def is_index(name: str) -> bool:
    """Return True if a file's name is that of an index."""
    return name.endswith(_SUFFIX)


def read_weight_map(data: bytes, *, shown: str) -> dict[str, str]:
    """Return the file of each tensor.

    Args:
        shown: its name in errors.

    Raises:
        InputError: it is no index.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    shards = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) and "/" not in name for name in shards.values()):
        raise InputError(f"{shown} is no index of safetensors files.", hint="Download it again.")
    return shards


def missing_shards(index: str, weight_map: Mapping[str, str], names: Collection[str]) -> list[str]:
    """Return the files that an index names and that are not there, sorted.

    An index that describes other files than the chosen weights is left alone: no weights lie beside it, or none of its
    files do, and it is either not the one that transformers reads, or the weights lie beside it in one file.

    Args:
        index: its path, with ``/``.
        weight_map: the file of each tensor.
        names: paths of the files that are there.
    """
    folder = PurePosixPath(index).parent
    if not any(PurePosixPath(name).parent == folder and name.endswith(".safetensors") for name in names):
        return []
    shards = {(folder / name).as_posix() for name in weight_map.values()}
    missing = shards - set(names)
    if PurePosixPath(index).name == INDEX:
        is_used = (folder / _WHOLE).as_posix() not in names
    else:
        is_used = len(missing) < len(shards)
    return sorted(missing) if is_used else []


def refuse_missing(missing: Collection[str], index: str, shown: str) -> None:
    """Refuse weights without some of their files.

    Args:
        index: path of the index that names the files.
        shown: the model's name in errors.

    Raises:
        InputError: there are some.
    """
    if missing:
        listed = ", ".join(sorted(missing)[:_SHOWN_NAMES]) + (", ..." if len(missing) > _SHOWN_NAMES else "")
        raise InputError(
            f"{shown} is incomplete: {index} names {len(missing)} files that are not there: {listed}.",
            hint="Download it again, or tell its owner.",
        )


def check_shards(folder: Path, *, shown: str = "", headers: bool = True) -> None:
    """Check that each file that an index names is there, and holds the tensors that the index says.

    Args:
        shown: the model's name in errors; by default the folder.
        headers: read the headers of the files for their tensors.

    Raises:
        InputError: files or tensors are missing, or an index is none.
    """
    for path in sorted(folder.rglob(f"*{_SUFFIX}")):
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, more than any index.", hint="Remove it.")
        weight_map = read_weight_map(path.read_bytes(), shown=str(path))
        here = {one.name for one in path.parent.glob("*.safetensors")}
        refuse_missing(missing_shards(path.name, weight_map, here), path.name, shown or repr(str(folder)))
        if headers:
            _check_tensors(path, weight_map, here, shown or repr(str(folder)))


def _check_tensors(index: Path, weight_map: Mapping[str, str], here: Collection[str], shown: str) -> None:
    used = set(weight_map.values())
    if not used <= set(here):  # the index describes other weights than these
        return
    found = {(tensor.name, shard) for shard in used for tensor in read_tensors(index.parent / shard)}
    absent = sorted(name for name, shard in weight_map.items() if (name, shard) not in found)
    if absent:
        raise InputError(
            f"{shown} is incomplete: {len(absent)} tensors are not in the files that {index.name} names: "
            f"{', '.join(absent[:_SHOWN_NAMES])}{', ...' if len(absent) > _SHOWN_NAMES else ''}.",
            hint="Download it again, or tell its owner.",
        )
