"""References to versions, and checks of names, aliases and retired versions."""

from __future__ import annotations

import re

from llamafarm_ray.errors import ConflictError, InputError
from llamafarm_ray.registry.state import RegistryState, VersionRecord
from llamafarm_ray.registry.state.whole import DEFAULT_ALIAS
from llamafarm_ray.types import AUTO_MODEL, MODEL_NAME, NAME, ModelKind, ModelRef

__all__ = [
    "check_alias",
    "check_alive",
    "check_free_for",
    "check_name",
    "check_new_alias",
    "namespace_of",
    "parse_reference",
    "record_ref",
]

_WHOLE = frozenset({ModelKind.BASE, ModelKind.EMBEDDING})
_NOT_BESIDE = {ModelKind.ADAPTER: _WHOLE, ModelKind.BASE: frozenset({ModelKind.ADAPTER})}
"""Kinds of versions under a name that keep one of another kind away."""
_LIKE_A_VERSION = re.compile(r"v?\d+(\.\d+)*([.+-].*)?|latest|newest", re.IGNORECASE)
_NAME_RULE = "Use letters, digits and, inside, '.', '_' and '-', 96 at most; a namespace may be before it, team/name."


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
    if not re.fullmatch(MODEL_NAME, re.split("[:@]", name, maxsplit=1)[0]):
        raise InputError(f"{name[:120]!r} can't be a model's name.", hint=_NAME_RULE)
    ref = ModelRef.parse(name)
    if ref.version or ref.alias:
        raise InputError(f"{name!r} is a reference, not a name.", hint=f"Leave it at {ref.name!r}.")


def check_free_for(kind: ModelKind, name: str, state: RegistryState) -> None:
    """Check that a name can get a version of a kind.

    Adapters and base models don't share a name: the name alone would stop to mean the base model for everyone who names
    it in a configuration, or the adapter for its clients. Models that were trained here may follow adapters.

    Raises:
        InputError: requests use the name for something else.
        ConflictError: the name has versions of the other kind.
    """
    if name == AUTO_MODEL:
        raise InputError(
            f"{name!r} can't be a model's name: in requests it stands for the best model for a task.",
            hint="Give another --name.",
        )
    model = state.models.get(name)
    refused = _NOT_BESIDE.get(kind, frozenset())
    for record in model.versions.values() if model is not None else ():
        found = record.registered.kind
        if record.retired is None and found in refused and not (found in _WHOLE and record.registered.method):
            raise ConflictError(
                f"{record.ref} is of kind {found}, and {name!r} can't get a version of kind {kind}: the name alone "
                "would mean another model.",
                hint="Give another --name.",
            )


def check_alias(alias: str) -> None:
    """Check that a text can be an alias's or a principal's name.

    Raises:
        InputError: it can't.
    """
    if not re.fullmatch(NAME, alias):
        raise InputError(f"{alias[:120]!r} is no name.", hint="Use letters, digits, '.', '_' and '-'.")


def check_new_alias(alias: str, state: RegistryState, model: str | None = None) -> None:
    """Check that a text can be an alias that people and clients don't take for something else.

    Existing aliases stay usable.

    Args:
        model: the alias's model; by default the alias is meant for all models, by its rules.

    Raises:
        InputError: it reads as a version, or differs from a known alias by case alone.
    """
    check_alias(alias)
    record = state.models.get(model) if model is not None else None
    known = {DEFAULT_ALIAS, *state.policies, *(record.aliases if record is not None else ())}
    if alias in known:
        return
    if _LIKE_A_VERSION.fullmatch(alias):
        raise InputError(
            f"{alias!r} can't be an alias: it would be taken for a version.",
            hint="Name what it is for, such as production or staging; `name:1.2.0` names a version.",
        )
    near = sorted(other for other in known if other.casefold() == alias.casefold())
    if near:
        raise InputError(
            f"{alias!r} can't be an alias: it differs from {near[0]!r} by case alone.", hint=f"Use {near[0]!r}."
        )


def parse_reference(reference: str | ModelRef) -> ModelRef:
    """Return a reference, parsed if it is a text."""
    return ModelRef.parse(reference) if isinstance(reference, str) else reference


def namespace_of(ref: str) -> str:
    """Return the namespace of a recorded version; "" for the name of a base that is no reference."""
    try:
        return ModelRef.parse(ref).namespace
    except InputError:
        return ""
