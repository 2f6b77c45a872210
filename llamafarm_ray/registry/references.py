"""References to versions, and checks of names, aliases and retired versions."""

from __future__ import annotations

import re

from llamafarm_ray.errors import ConflictError, InputError
from llamafarm_ray.registry.state import VersionRecord
from llamafarm_ray.types import NAME, ModelRef

__all__ = ["check_alias", "check_alive", "check_name", "namespace_of", "parse_reference", "record_ref"]


def record_ref(record: VersionRecord) -> ModelRef:
    """Return the reference that names a version by its number."""
    return ModelRef(record.registered.model, version=record.version)


def check_alive(record: VersionRecord) -> None:
    """Check that a version may still be used.

    Raises:
        ConflictError: it is retired; the message says why.
    """
    if record.retired is not None:
        why = f": {record.retired}" if record.retired else ""
        raise ConflictError(f"{record.ref} is retired{why}.", hint="`llamafarm models list` shows the living ones.")


def check_name(name: str) -> None:
    """Check that a text can be a model's name.

    Raises:
        InputError: it can't, or it is a reference.
    """
    ref = ModelRef.parse(name)
    if ref.version or ref.alias:
        raise InputError(f"{name!r} is a reference, not a name.", hint=f"Leave it at {ref.name!r}.")


def check_alias(alias: str) -> None:
    """Check that a text can be an alias's or a principal's name.

    Raises:
        InputError: it can't.
    """
    if not re.fullmatch(NAME, alias):
        raise InputError(f"{alias[:120]!r} is no name.", hint="Use letters, digits, '.', '_' and '-'.")


def parse_reference(reference: str | ModelRef) -> ModelRef:
    """Return a reference, parsed if it is a text."""
    return ModelRef.parse(reference) if isinstance(reference, str) else reference


def namespace_of(ref: str) -> str:
    """Return the namespace of a recorded version; "" for the name of a base that is no reference."""
    try:
        return ModelRef.parse(ref).namespace
    except InputError:
        return ""
