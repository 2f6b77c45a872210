"""A registry in a folder, files to register, and short ways to make versions."""

import pytest
from model_files import safetensors_bytes, store_note
from s3 import bucket, s3_server  # noqa: F401  (fixtures)

from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import Register
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_model.safetensors").write_bytes(safetensors_bytes())
    return made


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"), principal="ann", cache=tmp_path / "cache")


@pytest.fixture
def versions(registry):
    """Makes versions of one note each: ``versions("bot", "1.0.0", "1.1.0", metrics={...})``."""

    def make(model, *numbers, **details):
        for number in numbers:
            manifest = store_note(registry.content, f"{model}:{number}")
            registry.submit(Register(model, ModelKind.ADAPTER, manifest, 1, number, details=details))

    return make


@pytest.fixture
def bot(registry, folder):
    return registry.register(folder, name="bot", kind=ModelKind.ADAPTER)


@pytest.fixture
def orphan(registry, folder):
    """A folder that was published and never registered: one file that no version has, and its manifest."""
    (folder / "orphan.txt").write_text("nobody's")
    manifest = registry.content.publish(folder)
    (folder / "orphan.txt").unlink()
    return manifest


@pytest.fixture
def retired(registry, folder, bot):
    """A version beside ``bot`` that the next collector gives up."""
    (folder / "second.txt").write_text("2")
    record = registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    registry.retire(record.ref)
    assert record.registered.manifest != bot.registered.manifest
    return record
