"""Before an engine gets a version's files they are what was registered, and fit the base model that is served."""

import asyncio
import math

import pytest
from model_files import safetensors_bytes
from tiny_adapters import change_config, change_tensors, write_adapter, write_base

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.serving.adapters import files as adapter_files
from llamafarm_ray.serving.adapters.files import ServedBase, VerifiedFiles
from llamafarm_ray.serving.routing.resolution import target_of
from llamafarm_ray.storage import Location, content, manifest
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


@pytest.mark.parametrize("is_sound", [True, False], ids=["can't be read", "unsound"])
def test_an_error_of_the_look_names_the_version_and_the_file_and_no_folder(registry, tmp_path, monkeypatch, is_sound):
    def unreadable(paths):
        raise PermissionError(13, "Permission denied", str(paths[0]))

    target = registered(registry, folder_of(tmp_path / "a", 1.0))
    if is_sound:
        monkeypatch.setattr(adapter_files, "find_not_finite", unreadable)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(manifest, "read_tensors", lambda _: ())
            patch.setattr(content, "_check_finite", lambda *_: None)
            (tmp_path / "b").mkdir()
            (tmp_path / "b/adapter_model.safetensors").write_bytes(b"no header")
            target = registered(registry, tmp_path / "b")
    with pytest.raises(InputError) as refused:
        pull(VerifiedFiles(registry.content, registry), target)
    assert str(refused.value).startswith(f"{target.ref} can't be served: ")
    assert "adapter_model.safetensors" in str(refused.value)
    assert ("Permission denied" if is_sound else "no sound safetensors file") in str(refused.value)
    assert "/" not in str(refused.value)
    assert registry.content.evict(0)  # it is held by nobody


def test_what_was_found_is_kept_of_so_many_versions(registry, tmp_path, monkeypatch, looks):
    monkeypatch.setattr(adapter_files, "_FINDINGS", 2)
    targets = [registered(registry, folder_of(tmp_path / str(number), float(number))) for number in range(3)]
    files = VerifiedFiles(registry.content, registry)
    for target in (*targets, targets[2], targets[1]):
        pull(files, target)
    assert len(looks) == 3
    pull(files, targets[0])
    assert len(looks) == 4


def test_the_files_of_a_refused_adapter_may_be_evicted(registry, tmp_path, monkeypatch):
    target = forged(registry, folder_of(tmp_path / "a", math.nan), monkeypatch)
    with pytest.raises(InputError):
        pull(VerifiedFiles(registry.content, registry), target)
    assert registry.content.evict(0) == [Digest(target.digest)]


def test_another_form_of_a_whole_model_may_hold_infinities(registry, tmp_path, looks):
    target = registered(registry, folder_of(tmp_path / "a", -math.inf), ModelKind.QUANTIZED)
    assert pull(VerifiedFiles(registry.content, registry), target).is_dir()
    assert looks == []


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base")


def files_on(registry, base, **served):
    """What gives an engine its adapters, on a base model."""
    files = VerifiedFiles(registry.content, registry)
    files.base = ServedBase(base, **served)
    return files


def test_an_adapter_that_fits_the_served_base_is_proved_once(registry, tmp_path, base, monkeypatch):
    proofs = []
    prove = adapter_files.prove_adapter
    monkeypatch.setattr(adapter_files, "prove_adapter", lambda *args, **more: proofs.append(1) or prove(*args, **more))
    target = registered(registry, write_adapter(tmp_path / "a", base))
    files = files_on(registry, base)
    for _ in range(3):
        assert pull(files, target).is_dir()
    assert len(proofs) == 1


WRONG = {
    "names": (lambda adapter: change_tensors(adapter, lambda old: {f"{name}.x": one for name, one in old.items()})),
    "rank": (lambda adapter: change_config(adapter, r=8)),
    "scale": (lambda adapter: change_config(adapter, lora_alpha=1e308)),
    "a value": (lambda adapter: change_config(adapter, r="4")),
    "an initialisation": (lambda adapter: change_config(adapter, init_lora_weights="olora")),
}


@pytest.mark.parametrize("spoil", WRONG.values(), ids=WRONG)
def test_an_adapter_that_does_not_fit_the_served_base_reaches_no_engine(registry, tmp_path, base, spoil):
    adapter = write_adapter(tmp_path / "a", base)
    spoil(adapter)
    target = registered(registry, adapter)  # by a writer that proves nothing
    with pytest.raises(InputError, match=r"^bot:1\.0\.0 can't be served: ") as refused:
        pull(files_on(registry, base), target)
    assert "/" not in str(refused.value).replace("llamafarm models", "")
    assert registry.content.evict(0)


def test_the_dtype_that_is_served_decides_on_what_overflows(registry, tmp_path, base):
    target = registered(registry, write_adapter(tmp_path / "a", base, lora_alpha=3e5))
    assert pull(files_on(registry, base, dtype="bfloat16"), target).is_dir()
    with pytest.raises(InputError, match="float16 allows"):
        pull(files_on(registry, base, dtype="float16"), target)


def test_what_vllm_cannot_serve_names_the_engine_that_can(registry, tmp_path, base):
    import numpy as np

    adapter = write_adapter(tmp_path / "a", base, use_dora=True)

    def with_magnitudes(tensors):
        ends = {name: one for name, one in tensors.items() if name.endswith("lora_B.weight")}
        more = {
            name.replace("lora_B.weight", "lora_magnitude_vector"): np.ones(len(one), np.float32)
            for name, one in ends.items()
        }
        return {**tensors, **more}

    change_tensors(adapter, with_magnitudes)
    target = registered(registry, adapter)
    assert pull(files_on(registry, base), target).is_dir()
    with pytest.raises(UnsupportedError, match=r"has DoRA, which vLLM can't serve.*engine: transformers"):
        pull(files_on(registry, base, is_vllm=True), target)
