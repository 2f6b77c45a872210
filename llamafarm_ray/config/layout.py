"""The canonical shape as a flat map from dotted paths to fields, read off the section classes."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from llamafarm_ray.config.sections.base import Section
from llamafarm_ray.config.sections.root import Config

__all__ = ["SHORTHANDS", "Layout", "Path", "layout", "parse_path", "section_of"]

Path = tuple[str, ...]
"""The names on the way to a key; ``()`` is the root."""

SHORTHANDS: Mapping[Path, str] = types.MappingProxyType(
    {("dataset",): "path", ("dataset", "source"): "type", ("dataset", "augmentation"): "enabled"}
)
"""Sections that may be given as a plain text, or true or false, and the key that the value is meant for."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Every place of the canonical shape.

    Attributes:
        sections: the class of each section, the root included.
        leaves: the field of each key that is no section.
        free: keys that hold a mapping with names of the user's own.
        optional: keys and sections that may be null.
    """

    sections: Mapping[Path, type[Section]]
    leaves: Mapping[Path, FieldInfo]
    free: frozenset[Path]
    optional: frozenset[Path]

    def names_in(self, section: Path) -> tuple[str, ...]:
        """The keys that exist in a section."""
        return tuple(self.sections[section].model_fields)

    def leaf_above(self, path: Iterable[object]) -> Path:
        """The longest start of ``path`` that is a key or a section; one name further inside of a free mapping."""
        found: Path = ()
        for name in path:
            if not isinstance(name, str):
                break
            further = (*found, name)
            if found in self.free:
                return further
            if further not in self.sections and further not in self.leaves:
                break
            found = further
        return found


@functools.cache
def layout() -> Layout:
    """The layout of :class:`Config`, made once."""
    sections: dict[Path, type[Section]] = {(): Config}
    leaves: dict[Path, FieldInfo] = {}
    optional: set[Path] = set()
    for path, info in _walk(Config, ()):
        section = section_of(info.annotation)
        if section is not None:
            sections[path] = section
        else:
            leaves[path] = info
        if type(None) in get_args(info.annotation):
            optional.add(path)
    free = frozenset(path for path, info in leaves.items() if get_origin(info.annotation) is Mapping)
    return Layout(sections, leaves, free, frozenset(optional))


def _walk(section: type[Section], at: Path) -> Iterator[tuple[Path, FieldInfo]]:
    for name, info in section.model_fields.items():
        yield (*at, name), info
        below = section_of(info.annotation)
        if below is not None:
            yield from _walk(below, (*at, name))


def section_of(annotation: object) -> type[Section] | None:
    """The section class that an annotation names, directly or as one that may be null."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return next((found for part in get_args(annotation) if (found := section_of(part))), None)
    return None


def parse_path(text: str) -> Path:
    """``"fine_tuning.method"`` as a path; ``""`` is the root."""
    return tuple(text.split(".")) if text else ()
