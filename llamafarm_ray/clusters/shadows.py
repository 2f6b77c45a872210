"""Files of the working directory that would take the place of a library in Ray's workers.

Ray puts a driver's working directory before the libraries in the search path of its workers. A file of the name
``torch.py`` there ends each of them as it starts, without a word of why.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from llamafarm_ray.errors import InputError

__all__ = ["refuse_shadows"]

_LIBRARIES = frozenset(
    {
        "accelerate",
        "bitsandbytes",
        "datasets",
        "deepspeed",
        "fsspec",
        "jinja2",
        "numpy",
        "pandas",
        "peft",
        "pyarrow",
        "pydantic",
        "ray",
        "requests",
        "safetensors",
        "tokenizers",
        "torch",
        "transformers",
        "vllm",
        "yaml",
    }
)
"""Libraries that workers import, and this process perhaps later."""


def refuse_shadows(folder: Path) -> None:
    """Refuse a working directory that has a module with the name of a library.

    Raises:
        InputError: it does; which file, and what it hides.
    """
    with contextlib.suppress(OSError):  # a folder that can't be listed hides nothing
        _refuse(folder)


def _refuse(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        is_module = path.suffix == ".py" or os.access(path / "__init__.py", os.R_OK)
        if is_module and path.stem != "__main__" and path.stem.isidentifier() and _is_elsewhere(path.stem, folder):
            raise InputError(
                f"{path} has the name of a Python library, and Ray's workers would import it in its place.",
                hint="Give it another name, or run the command in another folder.",
            )


def _is_elsewhere(name: str, folder: Path) -> bool:
    """Return True if a module of that name is a library: one that is known, or that this process has imported."""
    if name in _LIBRARIES:
        return True
    module = sys.modules.get(name)
    if module is None:
        return False
    file = getattr(module, "__file__", None)
    return file is None or not Path(file).resolve().is_relative_to(folder.resolve())
