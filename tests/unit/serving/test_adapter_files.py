"""Before an engine gets a version's files they are what was registered, and their weights are numbers."""

import asyncio
import json
import math

import pytest
from model_files import safetensors_bytes

from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.serving import adapter_files
from llamafarm_ray.serving.adapter_files import VerifiedFiles
from llamafarm_ray.serving.resolution import target_of
from llamafarm_ray.storage import Location, content
from llamafarm_ray.types import Digest, ModelKind


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"), principal="ann")


@pytest.fixture
def looks(monkeypatch):
    """The number of times that weights were looked at, in a list."""
    calls = []

    def look(paths):
        calls.append(1)
        return find(paths)

    find = adapter_files.find_not_finite
    monkeypatch.setattr(adapter_files, "find_not_finite", look)
    return calls


def folder_of(path, *values):
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"r": 1}))
    (path / "adapter_model.safetensors").write_bytes(safetensors_bytes(*values))
    return path


def registered(registry, folder, kind=ModelKind.ADAPTER):
    return target_of(registry.register(folder, name="bot", kind=kind))


def forged(registry, folder, monkeypatch):
    """A version of an adapter whose writer checked no weight."""
    with monkeypatch.context() as patch:
        patch.setattr(content, "_check_finite", lambda *_: None)
        return registered(registry, folder)


def pull(files, target):
    return asyncio.run(files.pull(target))


def test_an_adapter_of_numbers_is_looked_at_once(registry, tmp_path, looks):
    target = registered(registry, folder_of(tmp_path / "a", 1.0, 2.0))
    files = VerifiedFiles(registry.content, registry)
    for _ in range(3):
        assert (pull(files, target) / "adapter_model.safetensors").is_file()
    assert len(looks) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_reach_no_engine(registry, tmp_path, monkeypatch, looks, bad):
    target = forged(registry, folder_of(tmp_path / "a", 1.0, bad, bad), monkeypatch)
    files = VerifiedFiles(registry.content, registry)
    for _ in range(3):
        with pytest.raises(InputError, match=r"^bot:1.0.0 can't be served: 2 of the 3 values .*'w'") as refused:
            pull(files, target)
        assert str(tmp_path) not in str(refused.value)
    assert len(looks) == 1


def test_the_files_of_a_refused_adapter_may_be_evicted(registry, tmp_path, monkeypatch):
    target = forged(registry, folder_of(tmp_path / "a", math.nan), monkeypatch)
    with pytest.raises(InputError):
        pull(VerifiedFiles(registry.content, registry), target)
    assert registry.content.evict(0) == [Digest(target.digest)]


def test_another_form_of_a_whole_model_may_hold_infinities(registry, tmp_path, looks):
    target = registered(registry, folder_of(tmp_path / "a", -math.inf), ModelKind.QUANTIZED)
    assert pull(VerifiedFiles(registry.content, registry), target).is_dir()
    assert looks == []
