"""What a folder must hold to be a base model. Looks at names only, so it is cheap enough to do first."""

from __future__ import annotations

import hashlib
from pathlib import Path

from llamafarm_ray.errors import InputError

__all__ = ["TOKENIZER_FILES", "check_base_model", "folder_fingerprint"]

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

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_base_model(folder: Path) -> None:
    """Check that ``folder`` looks like a causal language model with its tokenizer.

    Raises:
        InputError: the folder, its config.json, its safetensors weights or its tokenizer are missing.
    """
    if not folder.is_dir():
        raise InputError(
            f"The base model {str(folder)!r} is not a folder.",
            hint="Give the folder that holds config.json, *.safetensors and the tokenizer.",
        )
    if not (folder / "config.json").is_file():
        raise InputError(
            f"The base model {str(folder)!r} has no config.json.", hint="Give a folder in transformers' layout."
        )
    if not any(folder.glob("*.safetensors")):
        if any(folder.glob("*.bin")):
            raise InputError(
                f"The base model {str(folder)!r} has its weights in .bin (pickle) files only, which can run code.",
                hint="Convert them first: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...) writes "
                "safetensors.",
            )
        raise InputError(
            f"The base model {str(folder)!r} has no *.safetensors file.", hint="Download it again, weights included."
        )
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise InputError(
            f"The base model {str(folder)!r} has no tokenizer ({', '.join(_VOCABULARIES)}).",
            hint="Save the tokenizer into the same folder.",
        )


def folder_fingerprint(folder: Path) -> str:
    """Tells two base models apart without reading their weights: by their files' names, sizes and times of change."""
    hasher = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            found = path.stat()
            hasher.update(f"{path.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return f"sha256:{hasher.hexdigest()}"
