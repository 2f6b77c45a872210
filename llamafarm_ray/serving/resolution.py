"""Which version a request's ``model`` means, and the engine name that stands for exactly that version."""

from __future__ import annotations

from dataclasses import dataclass

from llamafarm_ray.errors import NotFoundError, did_you_mean
from llamafarm_ray.registry.state import RegistryState, VersionRecord
from llamafarm_ray.types import Digest, ModelKind, ModelRef

__all__ = ["Target", "resolve", "served_models", "target_of"]


@dataclass(frozen=True, slots=True)
class Target:
    """What answers a request: the base model itself (no ``digest``), or one version of an adapter."""

    engine_name: str
    ref: str
    digest: Digest | None = None


def target_of(record: VersionRecord) -> Target:
    """The target of a registered version.

    Its engine name ``name:version#digest`` never changes meaning, so nothing that an engine keeps by name (prefix
    cache, loaded weights) can be another version's.
    """
    digest = Digest(record.registered.manifest)
    return Target(f"{record.ref}#{digest.short}", record.ref, digest)


def resolve(model: str, state: RegistryState, *, base_name: str, base_digest: Digest) -> Target:
    """The target of a request's ``model``.

    That is the base's name, ``name``, ``name:version``, ``name@alias``, or the ``name:version#digest`` that an earlier
    response reported.

    Raises:
        NotFoundError: nothing of that name is served here; the hint says what is near, or which base it belongs to.
        InputError: the text is no model reference.
    """
    if model == base_name:
        return Target(base_name, base_name)
    reference, _, digest = model.partition("#")
    ref = ModelRef.parse(reference)
    if ref.name not in state.models:
        # Once keys count, names of other namespaces are not given away.
        known = [one for one in (base_name, *state.models) if not state.principals or _namespace(one) == ref.namespace]
        raise NotFoundError(f"The model {model!r} does not exist.", hint=did_you_mean(ref.name, known))
    record = state.resolve(ref)
    if record.retired is not None:
        raise NotFoundError(f"The model {record.ref!r} is retired.", hint=record.retired)
    if record.registered.kind is not ModelKind.ADAPTER or record.registered.base_digest != base_digest:
        raise NotFoundError(
            f"{record.ref} is no adapter of {base_name!r}, the base model served here.",
            hint=f"It is registered as {record.registered.kind} on {record.registered.base_model or 'no base'!r}.",
        )
    target = target_of(record)
    if digest and digest != target.engine_name.partition("#")[2]:
        raise NotFoundError(f"The model {model!r} does not exist.", hint=f"{record.ref} is {target.engine_name}.")
    return target


def _namespace(name: str) -> str:
    return ModelRef(name).namespace


def served_models(state: RegistryState, *, base_name: str, base_digest: Digest) -> list[str]:
    """The names a request may use here: the base, each adapter's name and its aliases."""
    names = [base_name]
    for record in sorted(state.models.values(), key=lambda model: model.name):
        living = (version for version in record.versions.values() if version.retired is None)
        versions = sorted(living, key=lambda version: version.version)
        if not any(
            v.registered.kind is ModelKind.ADAPTER and v.registered.base_digest == base_digest for v in versions
        ):
            continue
        names += [record.name, *(f"{record.name}@{alias}" for alias in sorted(record.aliases))]
        names += [version.ref for version in versions]
    return names
