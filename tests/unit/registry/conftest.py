"""A registry in a folder, files to register, and short ways to make versions."""

import json
import struct

import pytest
from s3 import bucket, s3_server  # noqa: F401  (fixtures)

from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import Register
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest, ModelKind


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "adapter"
    made.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (made / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
    return made


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"), principal="ann", cache=tmp_path / "cache")


@pytest.fixture
def versions(registry):
    """Makes versions whose files nobody stored: ``versions("bot", "1.0.0", "1.1.0", metrics={...})``."""

    def make(model, *numbers, **details):
        for number in numbers:
            manifest = Digest.of(f"{model}:{number}".encode())
            registry.submit(Register(model, ModelKind.ADAPTER, manifest, 1, number, details=details))

    return make
