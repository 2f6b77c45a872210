"""Overrides: ``key=value`` from the command line, on top of a file's values."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml

from llamafarm_ray.config.aliases.placing import Given, Placement, gives_way
from llamafarm_ray.config.layout import Path, layout
from llamafarm_ray.config.loading.yaml_core import CoreLoader, Table, plain_scalar

__all__ = ["apply_overrides"]

_INDEX = re.compile(r"(?:\.|\[)(\d{1,4})\]?$")


class _BadOverrideError(ValueError):
    """Mistake in the text of an override."""


def apply_overrides(placement: Placement, overrides: Iterable[str]) -> None:
    """Put each ``key=value`` on top; the last one of a key holds.

    A key is dotted, canonical or an alias, and may end in a position (``deployment.adapters[0]``). A value is a YAML
    scalar or flow collection; ``null`` takes away what the file gave.
    """
    for override in overrides:
        try:
            key, value = _parse(override)
            name, position = _split_position(key)
        except _BadOverrideError as error:
            placement.problems.append(f"--set {override[:200]!a}: {error}")
            continue
        *sections, last = name.split(".")
        tree = Table([(last, value)])
        for section in reversed(sections):
            tree = Table([(section, tree)])
        single = Placement(origin=f" (--set {override[:200] if override.isprintable() else ascii(override[:200])})")
        single.place(tree)
        if position is not None:
            _replace_element(single, placement, position)
        _lay_over(placement, single)


def _parse(override: str) -> tuple[str, object]:
    key, equals, text = override.partition("=")
    key, text = key.strip(), text.strip()
    if not equals or not key:
        raise _BadOverrideError("is no override; write key=value, such as fine_tuning.parameters.r=32.")
    try:
        if text[:1] in ("[", "{", '"', "'"):
            return key, yaml.load(text, Loader=CoreLoader)  # noqa: S506 (CoreLoader is stricter than SafeLoader)
        return key, plain_scalar(text)
    except (yaml.YAMLError, RecursionError) as error:
        problem = getattr(error, "problem", None) or "it can't be read"
        raise _BadOverrideError(f"its value is no YAML: {problem}.") from None


def _split_position(key: str) -> tuple[str, int | None]:
    match = _INDEX.search(key)
    if match is None:
        return key, None
    name = key[: match.start()]
    if not name or _INDEX.search(name):
        raise _BadOverrideError("has positions in a place where no list is.")
    return name, int(match[1])


def _replace_element(single: Placement, below: Placement, position: int) -> None:
    """Make the value of the one key in ``single`` the existing list, with one element changed."""
    for path, given in list(single.values.items()):
        info = layout().leaves.get(path)
        there = (
            below.values[path].value if path in below.values else info and info.get_default(call_default_factory=True)
        )
        if not isinstance(there, list | tuple):
            single.problems.append(f"{given.key}: is no list, so nothing is at position {position}.")
        elif position > len(there):
            single.problems.append(f"{given.key}: has {len(there)} elements, so position {position} is out of range.")
        else:
            changed = [*there[:position], given.value, *there[position + 1 :]]
            single.values[path] = Given(changed, given.key, changed)
            continue
        single.doubtful.add(path)
        del single.values[path]


def _lay_over(placement: Placement, single: Placement) -> None:
    placement.problems += single.problems
    placement.doubtful |= single.doubtful
    for path in single.cleared:
        _take_away(placement, path)
    for path, given in single.values.items():
        old = placement.values.get(path)
        if old is not None and given.may_become and gives_way(given, old):
            continue  # what is there says the same more precisely
        if given.value is None:
            _take_away(placement, path)
            if path not in layout().optional and path[:-1] not in layout().free:
                continue  # back to the default
        placement.values[path] = given


def _take_away(placement: Placement, path: Path) -> None:
    for other in [other for other in placement.values if other[: len(path)] == path]:
        del placement.values[other]
