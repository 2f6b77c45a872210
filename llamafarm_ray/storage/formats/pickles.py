"""Refuse files that run code when they are loaded, by their names and first bytes."""

from __future__ import annotations

import re
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
_NETWORK_BYTES = 256
_NETWORK = re.compile(rb"\s*<\?xml[^>]*\?>\s*<net\s")
"""Beginning of a network in OpenVINO's format."""


def refuse_pickles(path: Path) -> None:
    """Check a file's name and its first bytes.

    Raises:
        InputError: it is, or can hold, pickled code.
    """
    is_named_so = PICKLE_SUFFIXES.intersection(suffix.lower() for suffix in path.suffixes)
    if (is_named_so and not _is_of_openvino(path)) or _holds_pickles(path):
        raise InputError(
            f"{str(path)!r} can hold pickled code, which runs when it is loaded.",
            hint="Weights are accepted as safetensors, GGUF or ONNX: `llamafarm models convert --convert-pickle` reads "
            "pickled ones.",
        )


def _is_of_openvino(path: Path) -> bool:
    """Return True for the weights of an OpenVINO model: plain numbers, beside the network of the same name."""
    network = path.with_suffix(".xml")
    if not path.name.startswith("openvino_") or path.suffixes != [".bin"] or not network.is_file():
        return False
    with network.open("rb") as file:
        return _NETWORK.match(file.read(_NETWORK_BYTES)) is not None


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
