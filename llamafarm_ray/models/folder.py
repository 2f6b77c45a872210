"""Check that a folder holds a base model. No weights are read, so it is cheap enough to do first."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.formats.safetensors import is_mlx
from llamafarm_ray.storage.formats.shards import check_shards

__all__ = [
    "NAMED_TEMPLATES",
    "OPENVINO_NAME",
    "TOKENIZER_FILES",
    "WeightFormat",
    "check_base_model",
    "check_served_model",
    "folder_fingerprint",
    "gguf_file",
    "onnx_file",
    "weight_formats",
]

WeightFormat = Literal["safetensors", "gguf", "onnx", "openvino", "mlx"]
"""Format of a model's weights."""

OPENVINO_NAME = "openvino_model.xml"
"""OpenVINO's file of a model, as optimum names it; its weights are in ``openvino_model.bin``."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)
"""The files of a tokenizer, as transformers names them."""

NAMED_TEMPLATES = "additional_chat_templates"
"""The folder of chat templates beside the default one, as transformers names it."""

_GGUF = ".gguf"
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_base_model(folder: Path) -> None:
    """Check that ``folder`` looks like a causal language model with its tokenizer.

    Raises:
        InputError: the folder, its config.json, its safetensors weights, a file that their index names or its
            tokenizer are missing.
    """
    if not folder.is_dir():
        raise InputError(
            f"The base model {str(folder)!r} is not a folder.",
            hint="Give the folder that holds config.json, *.safetensors and the tokenizer.",
        )
    _check_config(folder)
    if not any(folder.glob("*.safetensors")):
        if any(folder.glob("*.bin")) and not (folder / OPENVINO_NAME).is_file():
            raise InputError(
                f"The base model {str(folder)!r} has its weights in .bin (pickle) files only, which can run code.",
                hint=f"Convert them first: `llamafarm models convert {folder} --to safetensors --convert-pickle`.",
            )
        raise InputError(
            f"The base model {str(folder)!r} has no *.safetensors file.", hint="Download it again, weights included."
        )
    if weight_formats(folder)[:1] == ("mlx",):
        raise InputError(
            f"The base model {str(folder)!r} has weights that MLX packed, which only MLX reads.",
            hint="Give the model that it was made from.",
        )
    check_shards(folder, shown=f"The base model {str(folder)!r}", headers=False)
    _check_tokenizer(folder)


def _check_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise InputError(
            f"The base model {str(folder)!r} has no config.json.", hint="Give a folder in transformers' layout."
        )


def _check_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise InputError(
            f"The base model {str(folder)!r} has no tokenizer ({', '.join(_VOCABULARIES)}).",
            hint="Save the tokenizer into the same folder.",
        )


def check_served_model(path: Path) -> None:
    """Check that a folder, or a GGUF file, looks like a model that can be served.

    Raises:
        InputError: something is missing.
    """
    match weight_formats(path)[:1]:
        case ("gguf",):
            gguf_file(path)  # which holds all there is
        case ("onnx",):
            onnx_file(path)
            _check_config(path)
            _check_tokenizer(path)
        case ("openvino",) | ("mlx",):  # for engines that users write
            _check_config(path)
            check_shards(path, shown=f"The model {str(path)!r}", headers=False)
            _check_tokenizer(path)
        case _:
            check_base_model(path)


def weight_formats(path: Path) -> tuple[WeightFormat, ...]:
    """The formats that a folder, or a GGUF file, has a model's weights in; those that more engines serve come first."""
    if path.is_file():
        return ("gguf",) if path.suffix.lower() == _GGUF else ()
    found: list[WeightFormat] = []
    if weights := next(path.glob("*.safetensors"), None):
        found.append("mlx" if is_mlx(weights) and _is_packed_by_mlx(path) else "safetensors")
    if any(path.glob(f"*{_GGUF}")):
        found.append("gguf")
    if _onnx_files(path):
        found.append("onnx")
    if (path / OPENVINO_NAME).is_file():
        found.append("openvino")
    return tuple(found)


def _is_packed_by_mlx(folder: Path) -> bool:
    """Return True for integers in groups; weights that MLX wrote as floats are those of any safetensors file."""
    try:
        return "quantization" in json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False


def gguf_file(path: Path) -> Path:
    """The one GGUF file of a folder, or the file itself.

    Raises:
        InputError: there is none, or several.
    """
    if path.is_file():
        return path
    found = sorted(path.glob(f"*{_GGUF}"))
    if len(found) != 1:
        listed = ", ".join(one.name for one in found) or "none"
        raise InputError(
            f"{str(path)!r} should hold one GGUF file; it holds {listed}.",
            hint="Give each its own folder; join the parts of a split one with `llama-gguf-split --merge`.",
        )
    return found[0]


def onnx_file(folder: Path) -> Path:
    """The ONNX file of a folder: ``model.onnx``, or the only one, also in ``onnx/`` as hubs have it.

    Raises:
        InputError: there is none, or several of which none is called so.
    """
    found = _onnx_files(folder)
    chosen = found if len(found) == 1 else [one for one in found if one.name == "model.onnx"]
    if len(chosen) != 1:
        listed = ", ".join(one.name for one in found) or "none"
        raise InputError(
            f"{str(folder)!r} should hold one ONNX file, or one called model.onnx; it holds {listed}.",
            hint="Keep the one that is to be served.",
        )
    return chosen[0]


def _onnx_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.onnx")) or sorted(folder.glob("onnx/*.onnx"))


def folder_fingerprint(folder: Path) -> str:
    """Tells two base models apart without reading their weights: by their files' names, sizes and times of change."""
    hasher = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            found = path.stat()
            hasher.update(f"{path.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return f"sha256:{hasher.hexdigest()}"
