"""Well-known ways in which other tools name an adapter's tensors, and the names that peft's loader expects.

``torch.compile`` puts ``_orig_mod.`` into names and data parallelism ``module.``; a plain ``state_dict`` keeps the
adapter's name; models that read images have their decoder at ``language_model`` or ``text_model``, in some releases.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.models.adapters.headers import PREFIX, Expected, Shape

__all__ = ["Renaming", "find_renaming", "rename_tensors"]

_COPY_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Renaming:
    """New names of an adapter's tensors.

    Attributes:
        words: the change, as the end of "once ...".
        names: the new name by the old one.
    """

    words: str
    names: Mapping[str, str]


def _without(part: str) -> Callable[[str], str]:
    return lambda name: re.sub(rf"(^|\.){part}\.", r"\1", name)


def _with(part: str, before: str) -> Callable[[str], str]:
    return lambda name: re.sub(rf"^({re.escape(PREFIX)}(?:model\.)?){before}", rf"\1{part}.{before}", name)


def _both(first: Callable[[str], str], second: Callable[[str], str]) -> Callable[[str], str]:
    return lambda name: second(first(name))


_WELL_KNOWN: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("`module.` is taken out of its tensors' names", _without("module")),
    ("`_orig_mod.` is taken out of its tensors' names", _without("_orig_mod")),
    ("`default` is taken out of its tensors' names", lambda name: re.sub(r"\.default(?=\.|$)", "", name)),
    ("`language_model` is taken out of its tensors' names", _without("language_model")),
    ("`text_model` is taken out of its tensors' names", _without("text_model")),
    ("`language_model` is put into its tensors' names", _with("language_model", "")),
    ("`text_model` is put into its tensors' names", _with("text_model", "")),
    ("`language_model` is put before `layers`", _with("language_model", "layers")),
    ("`text_model` is put before `layers`", _with("text_model", "layers")),
)


def find_renaming(shapes: Mapping[str, Shape], expected: Expected) -> Renaming | None:
    """Return the renaming, or two of them, with which all tensors fit; ``None`` if there is none.

    Args:
        shapes: the adapter's tensors.
        expected: those that it must have.
    """
    single: list[tuple[tuple[str, ...], Callable[[str], str]]] = [((words,), change) for words, change in _WELL_KNOWN]
    double: list[tuple[tuple[str, ...], Callable[[str], str]]] = [
        ((*one, *two), _both(first, second)) for one, first in single for two, second in single if one != two
    ]
    unchanged: tuple[tuple[str, ...], Callable[[str], str]] = ((), str)
    for words, change in [unchanged, *single, *double]:
        names = {name: _prefixed(change(name)) for name in shapes}
        if _fits({names[name]: shape for name, shape in shapes.items()}, shapes, expected):
            told = words or (f"`{PREFIX}` is put before its tensors' names",)
            return Renaming(" and ".join(told), names)
    return None


def _prefixed(name: str) -> str:
    return name if name.startswith("base_model.") else f"{PREFIX}{name}"


def _fits(renamed: Mapping[str, Shape], shapes: Mapping[str, Shape], expected: Expected) -> bool:
    if len(renamed) < len(shapes) or not expected.required.keys() <= renamed.keys():
        return False
    known = {**expected.allowed, **expected.required}
    return all(known.get(name) == shape for name, shape in renamed.items())


def rename_tensors(source: Path, target: Path, names: Mapping[str, str]) -> None:
    """Write a safetensors file with other names for its tensors; their bytes stay the same.

    Args:
        target: the file to write.
        names: the new name by the old one.
    """
    with source.open("rb") as old, target.open("wb") as new:
        (length,) = struct.unpack("<Q", old.read(8))
        header = json.loads(old.read(length))
        text = json.dumps({names.get(name, name): entry for name, entry in header.items()}).encode()
        text += b" " * (-len(text) % 8)
        new.write(struct.pack("<Q", len(text)) + text)
        while piece := old.read(_COPY_BYTES):
            new.write(piece)
