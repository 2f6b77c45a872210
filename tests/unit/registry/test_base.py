"""A base model that one machine found is fetched by another one, or it is said why it can't be."""

import shutil

import pytest
from model_files import safetensors_bytes

from llamafarm_ray.errors import ConflictError, NotFoundError
from llamafarm_ray.registry import RegistryService, base, base_here, find_base
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind


def make_model(folder, seed=0):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(safetensors_bytes(seed))
    return folder


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"), cache=tmp_path / "cache-of-one")


@pytest.fixture
def other_machine(tmp_path):
    """The same home with another cache."""
    return RegistryService(Location(tmp_path / "home"), cache=tmp_path / "cache-of-another")


def test_files_that_are_here_are_taken(registry, tmp_path):
    found = find_base(str(make_model(tmp_path / "tiny")), registry)
    assert base_here(found, registry) == tmp_path / "tiny"


@pytest.mark.parametrize("reference", ["tiny", "tiny:1.0.0"])
def test_a_registered_one_is_pulled_where_it_is_needed(registry, other_machine, tmp_path, reference):
    registry.register(make_model(tmp_path / "tiny"), name="tiny", kind=ModelKind.BASE)
    found = find_base(reference, registry)
    shutil.rmtree(tmp_path / "cache-of-one")
    registry.register(make_model(tmp_path / "next", seed=1), name="tiny", kind=ModelKind.BASE)
    folder = base_here(found, other_machine)
    assert folder.is_relative_to(tmp_path / "cache-of-another")
    assert (folder / "model.safetensors").read_bytes() == safetensors_bytes(0), "what was deployed, not the newest"


def test_a_folder_that_only_the_other_machine_has_is_told(registry, other_machine, tmp_path):
    found = find_base(str(make_model(tmp_path / "tiny")), registry)
    shutil.rmtree(tmp_path / "tiny")
    with pytest.raises(NotFoundError, match="on the machine that deployed it") as caught:
        base_here(found, other_machine)
    assert "llamafarm models import" in caught.value.hint


def test_a_hubs_model_is_fetched_anew_and_must_be_the_same(registry, other_machine, tmp_path, monkeypatch):
    def from_hub(model_id, folder):
        assert model_id == "owner/tiny"
        if not folder.exists():
            make_model(folder, seed)
        return folder

    seed = 0
    monkeypatch.setattr(base, "_from_hub", from_hub)
    found = find_base("owner/tiny", registry)
    shutil.rmtree(found.folder)
    folder = base_here(found, other_machine)
    assert folder.is_relative_to(tmp_path / "cache-of-another")
    seed = 1
    shutil.rmtree(folder)
    with pytest.raises(ConflictError, match="when it was deployed"):
        base_here(found, other_machine)
