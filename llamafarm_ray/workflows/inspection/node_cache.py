"""This machine's cache of models, with the names that the registry and their sources know them by."""

from __future__ import annotations

import datetime as dt
import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.config.values import MemorySize
from llamafarm_ray.errors import ConflictError, InputError, NotFoundError, UserError
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.storage.node_cache.cache import CachedVersion
from llamafarm_ray.types import Digest, ModelRef

__all__ = [
    "CachedModel",
    "Compression",
    "Eviction",
    "Verified",
    "cached_models",
    "compress",
    "evict",
    "pin",
    "unpin",
    "verify",
]

_SHORTEST_DIGEST = 6


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model in the cache.

    Attributes:
        version: its digest, size and use.
        is_referenced: True if registered versions are based on it, and the home has no copy.
        frees_bytes: bytes of the disk that are free again if it alone is evicted; 0 if it may not be.
    """

    version: CachedVersion
    names: tuple[str, ...]
    sources: tuple[str, ...]
    is_referenced: bool
    frees_bytes: int = 0

    @property
    def title(self) -> str:
        """Its names and sources for people, else the first digits of its digest."""
        return ", ".join((*self.names, *self.sources)) or self.version.digest.short

    @property
    def kept_by(self) -> str:
        """The reasons against an eviction: ``in use``, ``pinned``, ``referenced``; empty for none."""
        reasons = {
            "in use": self.version.in_use,
            "pinned": self.version.pinned,
            "referenced": self.is_referenced,
        }
        return ", ".join(reason for reason, holds in reasons.items() if holds)


@dataclass(frozen=True, slots=True)
class Eviction:
    """The models that were deleted from the cache, or would be, and the bytes that this frees."""

    titles: tuple[str, ...]
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class Compression:
    """The models that were compressed in the cache, or would be, and the bytes that this frees, or about would."""

    titles: tuple[str, ...]
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class Verified:
    """A model in the cache, and whether every byte of it is right."""

    model: CachedModel
    is_sound: bool


def cached_models(registry: RegistryApi) -> list[CachedModel]:
    """Return the models in this machine's cache, the most recently used first.

    Like the other actions on the cache it concerns this machine alone and takes no rights; versions that the caller
    may not read have no names.
    """
    registry.refresh()
    return _models(registry)


def pin(registry: RegistryApi, reference: str) -> str:
    """Keep a model in this machine's cache; return what people call it.

    Raises:
        NotFoundError: nothing is called so, neither in the cache nor in the registry.
    """
    digest, title = _find(registry, reference)
    registry.content.pin(digest)
    return title


def unpin(registry: RegistryApi, reference: str) -> str:
    """End a pin; return what people call the model.

    Raises:
        NotFoundError: nothing is called so, neither in the cache nor in the registry.
    """
    digest, title = _find(registry, reference)
    registry.content.unpin(digest)
    return title


def evict(
    registry: RegistryApi, references: Sequence[str] = (), *, limit: str | None = None, dry_run: bool = False
) -> Eviction:
    """Delete named models from this machine's cache, or the least valuable ones down to a limit.

    Models in use, pinned or referenced stay. Downloads that were left unfinished for a week go too.

    Args:
        limit: greatest amount that stays: ``20GB``, or ``0``.
        dry_run: only find out what would be deleted.

    Raises:
        InputError: neither or both of models and a limit are given, or the limit is no amount of bytes.
        NotFoundError: nothing in the cache is called so.
        ConflictError: a named model is in use, pinned or referenced.
    """
    if bool(references) == (limit is not None):
        raise InputError("Give either models or a limit.", hint="Name models, or how much may stay: --max 20GB.")
    num_bytes = _num_bytes(limit) if limit is not None else None
    registry.refresh()
    cache = registry.content.node_cache
    if num_bytes is None:
        chosen = [_evictable(registry, reference).version.digest for reference in references]
        planned = cache.removable(chosen, registry.referenced())
    else:
        planned = cache.evictable(num_bytes, registry.referenced())
    titles = {one.version.digest: one.title for one in _models(registry)}
    unfinished = registry.content.downloads.drop_unfinished(dry_run=dry_run)
    gone = planned.digests if dry_run else cache.evict_these(planned.digests)
    return Eviction(tuple(titles.get(digest, digest.short) for digest in gone), planned.freed_by(gone) + unfinished)


def compress(
    registry: RegistryApi, references: Sequence[str] = (), *, unused_for: dt.timedelta, dry_run: bool = False
) -> Compression:
    """Compress models in this machine's cache that were not used for a time.

    Models in use and pinned ones stay as they are. A compressed model comes back when it is used.

    Args:
        references: references to models, which are compressed whenever they were used; by default all that were not
            used for the time.
        unused_for: least time since the last use.
        dry_run: only find out what would be compressed, and by samples, how much that frees.

    Raises:
        NotFoundError: nothing in the cache is called so.
        ConflictError: a named model is in use or pinned.
    """
    registry.refresh()
    cache = registry.content.node_cache
    chosen = [_compressible(registry, reference).version.digest for reference in references] or None
    unused_s = 0.0 if chosen else unused_for.total_seconds()
    titles = {one.version.digest: one.title for one in _models(registry)}
    found = (cache.compressible if dry_run else cache.compress)(unused_s, chosen)
    return Compression(tuple(titles.get(digest, digest.short) for digest, _ in found), sum(freed for _, freed in found))


def verify(
    registry: RegistryApi, references: Sequence[str] = (), *, on_model: Callable[[Verified], None] = lambda _: None
) -> list[Verified]:
    """Hash every byte of models in this machine's cache, by default of all.

    Raises:
        NotFoundError: nothing in the cache is called so.
    """
    registry.refresh()
    models = [_cached(registry, reference) for reference in references] or _models(registry)
    found = []
    for model in models:
        checked = Verified(model, registry.content.node_cache.is_sound(model.version.digest))
        on_model(checked)
        found.append(checked)
    return found


def _models(registry: RegistryApi) -> list[CachedModel]:
    names: dict[str, list[str]] = defaultdict(list)
    is_readable = functools.cache(lambda namespace: registry.may(Action.READ, namespace))
    for record in registry.state.versions():
        if is_readable(ModelRef(record.registered.model).namespace):
            names[record.registered.manifest].append(record.ref)
    sources: dict[str, set[str]] = defaultdict(set)
    for download in registry.content.downloads.records():
        sources[download.manifest].add(f"{download.source}{f'@{download.revision}' if download.revision else ''}")
    referenced, cache = registry.referenced(), registry.content.node_cache
    return [
        CachedModel(
            version,
            tuple(sorted(names[version.digest])),
            tuple(sorted(sources[version.digest])),
            version.digest in referenced,
            cache.removable([version.digest], referenced).freed_bytes(),
        )
        for version in reversed(registry.content.cached())
    ]


def _cached(registry: RegistryApi, reference: str) -> CachedModel:
    """Return the model in the cache that has a digest, source or registered name."""
    models = _models(registry)
    if found := [model for model in models if _is_called(model, reference)]:
        if len(found) > 1:
            raise InputError(
                f"{reference!r} means {len(found)} models: {', '.join(one.version.digest.short for one in found)}.",
                hint="Give more digits of the digest.",
            )
        return found[0]
    try:
        digest = registry.resolve(reference).registered.manifest
    except UserError:
        digest = ""
    for model in models:
        if model.version.digest == digest:
            return model
    raise NotFoundError(
        f"{reference!r} is not in the cache {registry.content.cache}.", hint="See `llamafarm models cache list`."
    )


def _is_called(model: CachedModel, reference: str) -> bool:
    digest, hexadecimal = str(model.version.digest), reference.removeprefix("sha256:")
    by_digest = len(hexadecimal) >= _SHORTEST_DIGEST and digest.removeprefix("sha256:").startswith(hexadecimal)
    local = str(Path(reference).absolute())
    return by_digest or any(source in {reference, f"hf://{reference}", local} for source in model.sources)


def _find(registry: RegistryApi, reference: str) -> tuple[Digest, str]:
    registry.refresh()
    try:
        model = _cached(registry, reference)
    except NotFoundError:
        record = registry.resolve(reference)  # which may be pinned before it is pulled
        return Digest(record.registered.manifest), record.ref
    for name in model.names:  # whoever asks must be allowed to see it
        registry.resolve(name)
    return model.version.digest, model.title


def _evictable(registry: RegistryApi, reference: str) -> CachedModel:
    model = _cached(registry, reference)
    if model.kept_by:
        raise ConflictError(
            f"{reference} is {model.kept_by} and stays in the cache.",
            hint="Unpin it, end what uses it, or retire what is based on it.",
        )
    return model


def _compressible(registry: RegistryApi, reference: str) -> CachedModel:
    model = _cached(registry, reference)
    if model.version.in_use or model.version.pinned:
        raise ConflictError(
            f"{reference} is {'in use' if model.version.in_use else 'pinned'} and stays as it is.",
            hint="Unpin it, or end what uses it.",
        )
    return model


def _num_bytes(limit: str) -> int:
    try:
        return 0 if limit.strip() == "0" else MemorySize.parse(limit).num_bytes
    except ValueError as error:
        raise InputError(f"{limit!r} is no size: it {error}.", hint="Write it like 20GB, 512Mi or 0.") from None
