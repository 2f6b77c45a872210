"""Base of commands, and checks that several of them share."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ValidationError

from llamafarm_ray.errors import InputError
from llamafarm_ray.registry.events import Event
from llamafarm_ray.registry.governance.access import EVERY_NAMESPACE, Action
from llamafarm_ray.registry.log import FORMAT, STRICT_FORMAT
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.types import Digest, ModelRef

__all__ = ["Command", "ContentMovedError", "Context", "OfAlias", "OfVersion", "Unbounded", "check_stored", "event_of"]

_E = TypeVar("_E", bound=BaseModel)


class ContentMovedError(Exception):
    """Content of a command was condemned or newly referred to meanwhile. Only the service sees this."""


@dataclass(frozen=True, slots=True)
class Context:
    """The conditions of a decision.

    Attributes:
        format_version: the format of the commit, which says how strict the rules were.
    """

    principal: str
    now: dt.datetime
    format_version: int = FORMAT

    @property
    def is_strict(self) -> bool:
        """True if the rules of commits of format 2 hold, see :data:`.FORMAT`."""
        return self.format_version >= STRICT_FORMAT


class Command(ABC):
    """Something asked of a registry."""

    action: ClassVar[Action]

    @property
    @abstractmethod
    def target(self) -> str:
        """Target of the command: a reference, a name."""

    @property
    def namespace(self) -> str:
        """The namespace that it touches."""
        return self.target.partition("/")[0] if "/" in self.target else ""

    @property
    def namespaces(self) -> set[str]:
        """Namespaces that it touches: the caller must have the right in each."""
        return {self.namespace}

    @property
    def request(self) -> str:
        """A digest of the request: equal for a repeated command."""
        values = {key: value for key, value in vars(self).items() if key not in {"stored", "examined"}}
        text = json.dumps([type(self).__name__, values], sort_keys=True, default=repr)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]

    @abstractmethod
    def decide(self, state: RegistryState, context: Context) -> list[Event]:
        """The events that follow.

        Raises:
            UserError: it can't be done in this state.
        """


@dataclass(frozen=True)
class OfVersion(Command):
    """A command about one version."""

    ref: ModelRef

    @property
    def target(self) -> str:
        """The reference."""
        return str(self.ref)

    @property
    def namespace(self) -> str:
        """The model's."""
        return self.ref.namespace

    def _names(self, state: RegistryState) -> dict[str, str]:
        record = state.resolve(self.ref)
        return {"model": record.registered.model, "version": record.registered.version}


@dataclass(frozen=True)
class OfAlias(Command):
    """A command about an alias of a model."""

    model: str
    alias: str

    @property
    def target(self) -> str:
        """The alias."""
        return f"{self.model}@{self.alias}"


class Unbounded(Command):
    """A command that takes a right in every namespace."""

    @property
    def namespace(self) -> str:
        """It touches all."""
        return EVERY_NAMESPACE


def check_stored(state: RegistryState, stored: Mapping[Digest, int]) -> None:
    """Check that the digests' bytes are still stored under these generations."""
    if any(state.generations.get(digest, 0) != number for digest, number in stored.items()):
        raise ContentMovedError


def event_of(event: type[_E], /, **values: object) -> _E:
    """An event of the values a caller gave; what they got wrong is their mistake, not a fault."""
    try:
        return event(**values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{place} is unusable: {first['msg']} (it is {first['input']!r:.120}).") from None
