"""Aliases of keys: other spellings or other places, and the translation of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from llamafarm_ray.config.layout import Path, layout, parse_path
from llamafarm_ray.config.wording import shown

__all__ = ["NOTHING", "Alias", "AliasRefusalError", "Undecided", "same"]


class _Nothing:
    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = _Nothing()
"""Translation of a value that leaves the key as it is."""


class Undecided(NamedTuple):
    """The meaning of a value that rules something out, and leaves the key to another one.

    Attributes:
        reason: the missing decision, for the message if no other key makes it.
        choices: the canonical values that another key may give.
    """

    reason: str
    choices: tuple[object, ...]


class AliasRefusalError(ValueError):
    """A value of an alias that has no meaning here; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """One row of the table of other spellings.

    Attributes:
        target: the canonical dotted key or section; empty is the root.
        within: dotted sections in which the name is read; by default those around the target's key.
        values: values that translate to others; empty where every value passes.
        others_pass: True if values outside ``values`` are accepted too.
        refused: values that mean something this project can't do, and why.
        refused_always: reason to refuse the name with any value; such an alias translates nothing.
        convert: for values that a table can't hold; raises AliasRefusalError.
        accepts: the JSON Schema of ``convert``'s input.
        yields_to: for a canonical value, other canonical values that may make it more precise without a conflict.
    """

    name: str
    target: str
    tools: str
    within: tuple[str, ...] | None = None
    values: Mapping[Any, Any] = field(default_factory=dict)
    others_pass: bool = False
    refused: Mapping[object, str] = field(default_factory=dict)
    refused_always: str = ""
    convert: Callable[[object], object] | None = None
    accepts: Mapping[str, object] | None = None
    yields_to: Mapping[object, tuple[object, ...]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The canonical path of the target."""
        return parse_path(self.target)

    @property
    def sections(self) -> tuple[Path, ...]:
        """The sections in which the name is read."""
        if self.within is not None:
            return tuple(parse_path(text) for text in self.within)
        around = (self.path[:length] for length in range(len(self.path)))
        return tuple(section for section in around if self.name not in layout().names_in(section))

    def translate(self, value: object) -> object:
        """The canonical value, or ``NOTHING``.

        Raises:
            AliasRefusalError: the value, or the name itself, means something that isn't done here.
        """
        if self.refused_always:
            raise AliasRefusalError(self.refused_always)
        for refused, reason in self.refused.items():
            if same(refused, value):
                raise AliasRefusalError(f"can't be {shown(value)}: {reason}")
        for written, meant in self.values.items():
            if same(written, value):
                return meant
        if value is None:
            return NOTHING  # an empty line of a YAML file, as several tools' examples have them
        if self.convert is not None:
            return self.convert(value)
        if self.values and not self.others_pass:
            allowed = ", ".join(shown(written) for written in self.values if written is not None)
            raise AliasRefusalError(f"must be one of {allowed}, not {shown(value)}")
        return value

    def may_become(self, value: object) -> tuple[object, ...]:
        """The canonical values that another key may make of this alias's canonical ``value``."""
        if isinstance(value, Undecided):
            return value.choices
        return next((others for known, others in self.yields_to.items() if same(known, value)), ())


def same(one: object, other: object) -> bool:
    """Equal as a person sees it: 1 is 1.0, and is not true."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
