"""Base of all sections of the configuration: strict, frozen, checked as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, NamedTuple, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["Mistake", "Names", "Section", "Unused", "as_tuple", "section"]


class Mistake(NamedTuple):
    """A rule between several keys that a section breaks.

    Attributes:
        keys: the dotted keys it is about, relative to the section; the first one is where it is reported.
        text: the mistake in the first key; ``{1}`` stands for the second key, as the user wrote it.
    """

    keys: tuple[str, ...]
    text: str


class Unused(NamedTuple):
    """Reason that a key has no effect beside the other values.

    Attributes:
        because: the dotted key, relative to the section, whose value makes it meaningless.
        text: the reason; ``{1}`` stands for that key, as the user wrote it.
    """

    because: str
    text: str


class Section(BaseModel):
    """A section of the configuration: unknown keys, loose types and non-finite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def mistakes(self) -> Iterator[Mistake]:
        """The rules between keys of this section that its values break."""
        yield from ()

    def unused(self) -> Mapping[str, Unused]:
        """The keys that mean nothing beside the other values: setting one is an error, and they are never written."""
        return {}

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        found = list(self.mistakes())
        for key, (because, text) in self.unused().items():
            if _is_set(self, key):
                found.append(Mistake((key, because), text))
        if found:
            text = "; ".join(f"{keys[0]}: {text.format(*keys)}" for keys, text in found)
            raise PydanticCustomError("mistakes", "{text}", {"text": text, "mistakes": found})
        return self

    def __hash__(self) -> int:
        return hash((type(self), self.model_dump_json()))


def _is_set(section: Section, key: str) -> bool:
    """Return True if the dotted ``key`` was given a value, instead of having its default."""
    here = section
    for name in key.split("."):
        if name not in here.model_fields_set:
            return False
        here = getattr(here, name)
    return True


def as_tuple(value: object) -> object:
    """A list as a tuple, so that a strict and frozen section can hold it; anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


_Section = TypeVar("_Section", bound=Section)


def section(kind: type[_Section], description: str) -> _Section:
    """A field that holds a section of this kind, by default one with all of its defaults."""
    field: _Section = Field(default_factory=kind, description=description)
    return field


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(as_tuple)]
"""A list of texts that aren't empty."""
