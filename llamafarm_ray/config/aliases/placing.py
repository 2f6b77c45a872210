"""Move a user's keys to their places in the canonical shape, and record how each key was written.

The result is flat: canonical path to given value. Nothing is dropped on the way; what has no place becomes a problem.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llamafarm_ray.config.aliases import ALIASES
from llamafarm_ray.config.aliases.alias import NOTHING, Alias, AliasRefusalError, same
from llamafarm_ray.config.layout import SHORTHANDS, Path, layout
from llamafarm_ray.config.wording import dotted, near, shown

__all__ = ["Given", "Placement", "Written"]

_LARGEST_WHOLE_NUMBER = 2**63 - 1
_TWICE = "is given more than once in the same mapping."

Written = tuple[object, ...]
"""The names on the way to a key as the user wrote them."""

_LEAST_LIKENESS_ELSEWHERE = 0.85


@dataclass(frozen=True, slots=True)
class Given:
    """A value, and how its key was written.

    Attributes:
        value: the value, translated if an alias asks for it.
        key: the user's dotted spelling of the key.
        written: the value as the user wrote it.
        may_become: values that another key may make of it without a conflict.
    """

    value: object
    key: str
    written: object
    may_become: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class _Translated:
    """Value translated by an alias: as written, and its other possible values."""

    written: object
    may_become: tuple[object, ...]


@dataclass(slots=True)
class Placement:
    """The keys of one source by canonical path, and the problems met while placing them.

    Attributes:
        origin: appended to every key in a message: which override it comes from.
        values: given values by canonical path.
        problems: one line each, in the user's spelling.
        doubtful: canonical paths whose values are wrong or unknown, so that no rule should judge by them.
        cleared: canonical paths of sections and aliases that were given as null, which says nothing in a file.
    """

    origin: str = ""
    values: dict[Path, Given] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    doubtful: set[Path] = field(default_factory=set)
    cleared: set[Path] = field(default_factory=set)

    def place(self, table: Mapping[Any, object], section: Path = (), written: Written = ()) -> None:
        """Place every key of a mapping that stands for the canonical ``section``."""
        for name in getattr(table, "repeated", ()):
            self._problem((*written, name), _TWICE)
        for name, value in table.items():
            here = (*written, name)
            if not isinstance(name, str):
                self._not_text(written, name)
                continue
            if name in layout().names_in(section):
                self._put((*section, name), value, here)
            elif alias := _find_alias(section, name, value):
                self._put_translated(alias, value, here)
            else:
                self._problem(here, _unknown(section, name))

    def _put_translated(self, alias: Alias, value: object, written: Written) -> None:
        try:
            meant = alias.translate(value) if alias.path not in layout().sections or alias.refused_always else value
        except AliasRefusalError as refusal:
            self._problem(written, f"{refusal}.")
            self.doubtful.add(alias.path)
            return
        if meant is NOTHING:
            self.cleared |= {alias.path} if value is None else set()
        else:
            self._put(alias.path, meant, written, _Translated(value, alias.may_become(meant)))

    def _put(self, path: Path, value: object, written: Written, by: _Translated | None = None) -> None:
        if path in layout().sections:
            self._put_section(path, value, written)
        elif path in layout().free and isinstance(value, Mapping):
            for name, below in value.items():
                if isinstance(name, str):
                    self._give((*path, name), below, (*written, name))
                else:
                    self._not_text(written, name)
            for name in getattr(value, "repeated", ()):
                self._problem((*written, name), _TWICE)
        else:
            self._give(path, value, written, by)

    def _put_section(self, path: Path, value: object, written: Written) -> None:
        if isinstance(value, Mapping):
            if path in layout().optional:
                self.values.setdefault(path, Given({}, self._spell(written), {}))  # an empty one is more than none
            self.place(value, path, written)
        elif path in SHORTHANDS and _may_be_short(value, (*path, SHORTHANDS[path])):
            self._give((*path, SHORTHANDS[path]), value, written)
        elif value is None:
            self.cleared.add(path)
            if path in layout().optional:
                self._give(path, None, written)
        else:
            names = ", ".join(layout().names_in(path)[:4])
            self._problem(written, f"must be a mapping with keys such as {names}, not {shown(value)}.")
            if path:
                self.doubtful.add(path)

    def _give(self, path: Path, value: object, written: Written, by: _Translated | None = None) -> None:
        new = Given(value, self._spell(written), by.written if by else value, by.may_become if by else ())
        unusable = list(_unusable(value, written))
        if unusable:
            for place, text in unusable:
                self._problem(place, text)
            self.doubtful.add(path)
            return
        old = self.values.get(path)
        if old is None:
            self.values[path] = new
        elif gives_way(old, new):
            self.values[path] = _together(new, old)
        elif gives_way(new, old):
            self.values[path] = _together(old, new)
        else:
            self.problems.append(
                f"{new.key}: is {shown(new.written)}, but {old.key} is {shown(old.written)}, "
                f"and both mean {dotted(path)}; keep one."
            )
            self.doubtful.add(path)

    def _not_text(self, written: Written, name: object) -> None:
        self._problem((*written, shown(name)), "is no text, as every key must be; put it in quotes.")

    def _problem(self, written: Written, text: str) -> None:
        self.problems.append(f"{self._spell(written)}: {text}")

    def _spell(self, written: Written) -> str:
        return dotted(written) + self.origin


def _may_be_short(value: object, key: Path) -> bool:
    """Return True if a value that stands for a section is meant for the key of its short form."""
    return isinstance(value, str | bool if layout().leaves[key].annotation is bool else str)


def gives_way(one: Given, other: Given) -> bool:
    """Return True if ``other`` is the same as ``one``, or more precise."""
    return same(one.value, other.value) or any(same(value, other.value) for value in one.may_become)


def _together(one: Given, other: Given) -> Given:
    """Return ``one`` after ``other`` agreed to it, limited to the values that both allow."""
    both = tuple(value for value in one.may_become if any(same(value, allowed) for allowed in other.may_become))
    return dataclasses.replace(one, may_become=both)


def _unusable(value: object, written: Written) -> Iterator[tuple[Written, str]]:
    """Numbers that JSON can't write, and keys given twice, at any depth of a value."""
    if isinstance(value, float) and not math.isfinite(value):
        yield written, f"must be a finite number, not {value}."
    elif isinstance(value, int) and abs(value) > _LARGEST_WHOLE_NUMBER:
        yield written, "is a whole number of more than 63 bits."
    elif isinstance(value, list):
        for position, below in enumerate(value):
            yield from _unusable(below, (*written, position))
    elif isinstance(value, Mapping):
        for name in getattr(value, "repeated", ()):
            yield (*written, name), _TWICE
        for name, below in value.items():
            yield from _unusable(below, (*written, name))


@functools.cache
def _aliases_by_place() -> Mapping[tuple[Path, str], tuple[Alias, ...]]:
    table: dict[tuple[Path, str], tuple[Alias, ...]] = {}
    for alias in ALIASES:
        for section in alias.sections:
            table[section, alias.name] = (*table.get((section, alias.name), ()), alias)
    return table


def _find_alias(section: Path, name: str, value: object) -> Alias | None:
    """The alias that a name is in a section; one name may stand for a section and, with a plain value, for a key."""
    found = _aliases_by_place().get((section, name), ())
    for alias in found:
        if (alias.path in layout().sections) == isinstance(value, Mapping):
            return alias
    return found[0] if found else None


def _unknown(section: Path, name: str) -> str:
    """Return the message for a name that doesn't exist in a section."""
    elsewhere = [dotted(path) for path in (*layout().leaves, *layout().sections) if path and path[-1] == name]
    if elsewhere:
        return f"is no key of this section; it belongs at {' or '.join(elsewhere)}."
    here = [*layout().names_in(section), *(alias for place, alias in _aliases_by_place() if place == section)]
    found = near(name, here)
    if not found:
        by_name: dict[str, Path] = {path[-1]: path for path in (*layout().leaves, *layout().sections) if path}
        # Of all names of all sections, some are a bit like any word: only a slip of the pen is meant.
        found = [dotted(by_name[other]) for other in near(name, by_name, least=_LEAST_LIKENESS_ELSEWHERE)]
    if found:
        return f"is no known key; did you mean {' or '.join(found)}?"
    return f"is no known key; there is {', '.join(layout().names_in(section))}."
