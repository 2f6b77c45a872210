"""What the processes of the race tests do: writers, publishers, pullers and collectors of garbage on one home."""

import contextlib
import datetime as dt
import random
import shutil
import tempfile
from pathlib import Path

from llamafarm_ray.errors import ConflictError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import Register
from llamafarm_ray.registry.gc import collect
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest, ModelKind, ModelRef, Version

__all__ = ["collect_until", "publish_many", "pull_until", "register_many"]


def register_many(home, manifest, writer, number):
    """Register ``number`` versions, every other one of the model that all writers share.

    Returns:
        sequence and reference of each, by idempotency key.
    """
    registry = RegistryService(Location(home), principal=writer)
    acknowledged = {}
    for index in range(number):
        name, key = ("shared" if index % 2 else f"of-{writer}"), f"{writer}-{index}"
        command = Register(name, ModelKind.ADAPTER, Digest(manifest), 4, bump="patch")
        outcome = registry.submit(command, idempotency_key=key)
        acknowledged[key] = (outcome.sequence, f"{name}:{outcome.events[0].version}")
    return acknowledged


def publish_many(home, folders, writer, rounds):
    """Register versions that stay and versions that are retired soon, of the same bytes and of new ones.

    Returns:
        the versions that stay.
    """
    registry = RegistryService(Location(home), principal=writer)
    staying = []
    with tempfile.TemporaryDirectory() as scratch:
        for index in range(rounds):
            fresh = Path(shutil.copytree(Path(folders, "one"), Path(scratch, str(index))))
            (fresh / "note.txt").write_text(f"{writer} {index}")
            staying.append(_register(registry, fresh, f"staying-{writer}").ref)
            for name in ("one", "two"):  # the bytes that every publisher gives up and publishes again
                record = _register(registry, Path(folders, name), f"passing-{writer}")
                registry.retire(record.ref)
    staying.append(_register(registry, Path(folders, "two"), f"staying-{writer}").ref)
    return staying


def _register(registry, folder, name):
    while True:
        with contextlib.suppress(ConflictError):  # collectors without a grace period keep condemning what it stores
            return registry.register(folder, name=name, kind=ModelKind.ADAPTER)


def collect_until(home, stop):
    """Collect garbage without a grace period, retired versions too, until the file ``stop`` is there.

    Returns:
        how many blobs and manifests were deleted.
    """
    registry = RegistryService(Location(home), principal="collector")
    removed = 0
    while not Path(stop).exists():
        with contextlib.suppress(ConflictError):  # publishers are always at it
            found = collect(registry, grace=dt.timedelta(), purge_retired_after=dt.timedelta(), dry_run=False)
            removed += found.blobs + found.manifests
    return removed


def pull_until(home, stop):
    """Pull random living versions, each into an empty cache, until the file ``stop`` is there.

    Returns:
        how many were pulled.
    """
    pulled = 0
    location = Location(home)
    while not Path(stop).exists():
        with tempfile.TemporaryDirectory() as cache:
            registry = RegistryService(location, cache=Path(cache))
            living = [record for record in registry.state.versions() if record.retired is None]
            pulled += sum(_pull(registry, record) for record in random.sample(living, min(len(living), 10)))
    return pulled


def _pull(registry, record):
    """Whether the version could be pulled; it could not only where it was retired meanwhile."""
    try:
        folder = registry.pull(ModelRef(record.registered.model, version=Version.parse(record.registered.version)))
    except ConflictError:
        assert registry.resolve(record.ref).retired is not None
        return False
    assert (folder / "adapter_model.safetensors").is_file()
    return True
