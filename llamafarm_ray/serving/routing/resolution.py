"""Resolution of a request's ``model`` to one version, and the engine name of exactly that version."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamafarm_ray.errors import InputError, NotFoundError, did_you_mean
from llamafarm_ray.registry.governance.policy import flat_metrics
from llamafarm_ray.registry.rollouts import ShadowPlan
from llamafarm_ray.registry.state import RegistryState, RolloutRecord, VersionRecord
from llamafarm_ray.registry.state.whole import DEFAULT_ALIAS
from llamafarm_ray.serving.routing.traffic_split import NOBODY, Caller, Variant, gets_candidate
from llamafarm_ray.types import Digest, ModelKind, ModelRef

__all__ = ["Target", "is_served", "resolve", "resolve_routed", "served_models", "target_of"]

_MARK = ";"
"""Separator of the parts of the router's header; no name, version or digest contains it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Target of a request: the base model itself (no ``digest``), or one version of an adapter.

    Attributes:
        ref: ``name:version``, or the base's name.
        variant: its side of a rollout; ``None`` without a running rollout of the requested alias.
        shadow: version that gets a copy of the request; its answer is dropped.
    """

    engine_name: str
    ref: str
    digest: Digest | None = None
    variant: Variant | None = None
    rollout: str = ""
    shadow: Target | None = None

    @property
    def routed(self) -> str:
        """All of this in one header value, the router's decision for the gateway: see :func:`resolve_routed`."""
        parts = [self.engine_name]
        if self.variant is not None:
            parts += [self.variant, self.rollout]
        if self.shadow is not None:
            parts.append(self.shadow.engine_name)
        return _MARK.join(parts)


def target_of(record: VersionRecord) -> Target:
    """The target of a registered version.

    Its engine name ``name:version#digest`` never changes meaning, so nothing that an engine keeps by name (prefix
    cache, loaded weights) can be another version's.
    """
    digest = Digest(record.registered.manifest)
    return Target(f"{record.ref}#{digest.short}", record.ref, digest)


def resolve(
    model: str, state: RegistryState, *, base_name: str, base_digest: Digest, caller: Caller = NOBODY
) -> Target:
    """The target of a request's ``model``.

    That is the base's name, ``name``, ``name:version``, ``name@alias``, or the ``name:version#digest`` that an earlier
    response reported. A rollout under way splits the requests to its alias, and those to a bare ``name`` where that
    means the alias; a request that names a version gets that version.

    Args:
        caller: sender of the request, who gets the same variant of a rollout each time.

    Raises:
        NotFoundError: nothing of that name is served here; the hint names the nearest ones, or the base that it belongs
            to.
        PolicyError: a bare name, where ``production`` has rules and is not set.
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
    rollout = state.rollout_under_way(ref.name, ref.alias or DEFAULT_ALIAS)
    if rollout is not None and ref.version is None and not digest:
        return _split(rollout, caller, state, base_name, base_digest)
    target = _served(state.resolve(ref), state, base_name, base_digest)
    if digest and digest != target.engine_name.partition("#")[2]:
        raise NotFoundError(f"The model {model!r} does not exist.", hint=f"{target.ref} is {target.engine_name}.")
    return target


def resolve_routed(routed: str, state: RegistryState, *, base_name: str, base_digest: Digest) -> Target:
    """Return the router's target, from :attr:`Target.routed`; never for a client's value.

    Raises:
        NotFoundError: this registry's state does not have the version (yet).
        InputError: it is no such text.
    """
    engine_name, *about = routed.split(_MARK)
    target = resolve(engine_name, state, base_name=base_name, base_digest=base_digest)
    match about:
        case []:
            return target
        case [variant, rollout, *shadowed] if variant in set(Variant) and len(shadowed) <= 1:
            found = [resolve(name, state, base_name=base_name, base_digest=base_digest) for name in shadowed]
            shadow = _shadow_of(found[0], rollout) if found else None
            return replace(target, variant=Variant(variant), rollout=rollout, shadow=shadow)
    raise InputError(f"{routed[:120]!r} is nothing that the router writes.")


def _split(rollout: RolloutRecord, caller: Caller, state: RegistryState, base_name: str, base_digest: Digest) -> Target:
    """The variant that a rollout gives a caller."""
    baseline, candidate = (
        _served(state.version(rollout.model, number), state, base_name, base_digest)
        for number in (rollout.baseline, rollout.candidate)
    )
    is_chosen = gets_candidate(rollout.id, caller.key(rollout.plan.sticky_by), rollout.percent)
    if is_chosen and not isinstance(rollout.plan, ShadowPlan):
        return replace(candidate, variant=Variant.CANDIDATE, rollout=rollout.id)
    shadow = _shadow_of(candidate, rollout.id) if is_chosen else None
    return replace(baseline, variant=Variant.BASELINE, rollout=rollout.id, shadow=shadow)


def _shadow_of(candidate: Target, rollout: str) -> Target:
    return replace(candidate, variant=Variant.SHADOW, rollout=rollout)


def is_served(record: VersionRecord, state: RegistryState, base_digest: Digest) -> bool:
    """Return True if a version can be served on that base model: as its adapter, or as another form of the same model.

    An adapter is also one of models that were made from its base, once it was evaluated on them. An adapter in GGUF was
    trained on none of the files that it is served on, so it needs that evaluation on the base that it names as well.

    Those are kind ``quantized``: where one of a model's GGUF or ONNX files is deployed, so can be the others. Quantized
    safetensors are deployed by themselves.
    """
    registered = record.registered
    match registered.kind:
        case ModelKind.ADAPTER:
            is_measured = bool(flat_metrics(record.evaluated_on.get(base_digest, {})))  # with a score
            if registered.base_digest == base_digest:
                return is_measured or not registered.is_gguf_adapter
            return is_measured and state.descends(base_digest, str(registered.base_digest))
        case ModelKind.QUANTIZED if not registered.fills_engine:
            deployed = (one.registered for one in state.with_content(base_digest))
            return any(
                one.kind is ModelKind.QUANTIZED and not one.fills_engine and one.base_digest == registered.base_digest
                for one in deployed
            )
    return False


def _served(record: VersionRecord, state: RegistryState, base_name: str, base_digest: Digest) -> Target:
    """The target of a version, if it is served here."""
    if record.retired is not None:
        raise NotFoundError(f"The model {record.ref!r} is retired.", hint=record.retired)
    if not is_served(record, state, base_digest):
        raise NotFoundError(
            f"{record.ref} is no adapter of {base_name!r}, the base model served here.",
            hint=_why_not_served(record, state, base_name, base_digest),
        )
    return target_of(record)


def _why_not_served(record: VersionRecord, state: RegistryState, base_name: str, base_digest: Digest) -> str:
    registered = record.registered
    is_related = registered.base_digest == base_digest or state.descends(base_digest, str(registered.base_digest))
    if registered.kind is ModelKind.ADAPTER and is_related:
        command = f"llamafarm models evaluate --model {record.ref} --base-model {base_name} --benchmark TASK"
        return f"Evaluate it there first: `{command}`."
    return f"It is registered as {registered.kind} on {registered.base_model or 'no base'!r}."


def _namespace(name: str) -> str:
    return ModelRef(name).namespace


def served_models(state: RegistryState, *, base_name: str, base_digest: Digest) -> list[str]:
    """Return the names a request may use here: the base, each adapter's name, aliases and versions.

    The name alone is left out where it stands for no version, since ``production`` has rules and is not set.
    """
    names = [base_name]
    for record in sorted(state.models.values(), key=lambda model: model.name):
        living = (version for version in record.versions.values() if version.retired is None)
        versions = sorted(living, key=lambda version: version.version)
        if not any(is_served(version, state, base_digest) for version in versions):
            continue
        is_bare_name_open = DEFAULT_ALIAS in record.aliases or not state.has_rules(DEFAULT_ALIAS)
        names += [record.name] if is_bare_name_open else []
        names += [*(f"{record.name}@{alias}" for alias in sorted(record.aliases))]
        names += [version.ref for version in versions]
    return list(dict.fromkeys(names))  # one of a model's files may be the base here
