"""Refuse files that run code when they are loaded, by their names and first bytes."""

from __future__ import annotations

import zipfile
from pathlib import Path

from llamafarm_ray.errors import InputError

__all__ = ["PICKLE_SUFFIXES", "refuse_pickles"]

PICKLE_SUFFIXES = frozenset(
    {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".joblib", ".dill", ".npy", ".npz"}
)
"""Extensions of files that can hold pickled code."""

_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
"""Beginnings of pickles of the protocols 2 to 5."""
_ZIP = b"PK\x03\x04"
"""Beginning of torch's archives, and of other archives."""
_NUMPY = b"\x93NUMPY"


def refuse_pickles(path: Path) -> None:
    """Check a file's name and its first bytes.

    Raises:
        InputError: it is, or can hold, pickled code.
    """
    if PICKLE_SUFFIXES.intersection(suffix.lower() for suffix in path.suffixes) or _holds_pickles(path):
        raise InputError(
            f"{str(path)!r} can hold pickled code, which runs when it is loaded.",
            hint="Weights are accepted as safetensors, GGUF or ONNX: `llamafarm models convert --convert-pickle` reads "
            "pickled ones.",
        )


def _holds_pickles(path: Path) -> bool:
    if path.suffix.lower() == ".safetensors":  # its first bytes are a length, and may be any
        return False
    with path.open("rb") as file:
        start = file.read(len(_NUMPY))
    if start.startswith(_ZIP):
        return _is_torch_archive(path)
    return start.startswith((*_PICKLES, _NUMPY))


def _is_torch_archive(path: Path) -> bool:
    """Return True if an archive has pickled members, or can't be listed."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return True
    return any(Path(name).suffix.lower() in PICKLE_SUFFIXES for name in names)
