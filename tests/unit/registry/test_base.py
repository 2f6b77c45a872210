"""A base model that one machine found is fetched by another one, or it is said why it can't be."""

import shutil

import pytest
from file_server import hub_server
from model_files import safetensors_bytes

from llamafarm_ray.errors import ConflictError, InputError, NotFoundError
from llamafarm_ray.registry import RegistryService, base_here, find_base
from llamafarm_ray.registry.commands import Retire
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind, ModelRef


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


@pytest.fixture
def hub(monkeypatch):
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


def model_files(seed=0):
    return {"config.json": b"{}", "model.safetensors": safetensors_bytes(seed)}


def test_a_hubs_model_is_fetched_anew_and_must_be_the_same(registry, other_machine, tmp_path, hub):
    hub.add("owner/tiny", model_files())
    found = find_base("owner/tiny", registry)
    assert (found.name, found.reference) == ("tiny", "owner/tiny")
    shutil.rmtree(tmp_path / "cache-of-one")
    folder = base_here(found, other_machine)
    assert folder.is_relative_to(tmp_path / "cache-of-another")
    assert (folder / "model.safetensors").read_bytes() == safetensors_bytes(0)
    hub.add("owner/tiny", model_files(seed=1))
    shutil.rmtree(tmp_path / "cache-of-another")
    with pytest.raises(ConflictError, match="when it was deployed"):
        base_here(found, other_machine)


def test_a_replica_fetches_a_hubs_model_though_its_process_is_offline(
    registry, other_machine, tmp_path, hub, monkeypatch
):
    hub.add("owner/tiny", model_files())
    found = find_base("owner/tiny", registry)
    shutil.rmtree(tmp_path / "cache-of-one")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert base_here(found, other_machine).is_dir()


@pytest.mark.parametrize("revision", ["main", "v1"])
def test_a_revision_of_the_hub_is_part_of_a_name(registry, hub, revision):
    hub.add("owner/tiny", model_files())
    hub.add("owner/tiny", model_files(seed=1), "v1")
    found = find_base(f"owner/tiny@{revision}", registry)
    assert (found.folder / "model.safetensors").read_bytes() == safetensors_bytes(revision == "v1")


def test_any_source_of_downloads_is_a_base_model(registry, tmp_path):
    import fsspec

    for name, data in model_files().items():
        fsspec.filesystem("memory").pipe_file(f"/bases-of-tests/tiny/{name}", data)
    found = find_base("memory://bases-of-tests/tiny", registry)
    assert (found.name, found.digest) == ("tiny", find_base(str(make_model(tmp_path / "tiny")), registry).digest)


def test_a_base_whose_adapters_are_registered_is_not_evicted(registry, hub, tmp_path):
    hub.add("owner/tiny", model_files())
    found = find_base("owner/tiny", registry)
    registry.content.release(found.digest)
    registry.register(
        make_model(tmp_path / "adapter", 7), name="bot", kind=ModelKind.MERGED, base_digest=str(found.digest)
    )
    assert registry.content.evict(0) == []
    registry.submit(Retire(ModelRef.parse("bot:1.0.0")))
    assert registry.content.evict(0) == [found.digest]


def register_adapter(registry, tmp_path, name, base):
    folder = make_model(tmp_path / name, seed=7)
    return registry.register(folder, name=name, kind=ModelKind.ADAPTER, base_model=base)


def test_an_adapter_is_no_base_model_and_its_own_is_named(registry, tmp_path):
    register_adapter(registry, tmp_path, "bot", "tiny")
    with pytest.raises(InputError, match=r"bot:1\.0\.0 is an adapter, and no base model\. It is based on 'tiny'"):
        find_base("bot", registry)
    assert find_base("bot", registry, or_adapter=True).name == "bot"


@pytest.mark.parametrize("kind", [ModelKind.BASE, ModelKind.EMBEDDING])
def test_an_adapter_never_takes_the_name_of_a_base_model(registry, tmp_path, kind):
    registry.register(make_model(tmp_path / "tiny"), name="tiny", kind=kind)
    folder = make_model(tmp_path / "adapter", seed=7)
    with pytest.raises(ConflictError, match=rf"tiny:1\.0\.0 is of kind {kind}.*'tiny' can't get.*kind adapter"):
        registry.register(folder, name="tiny", kind=ModelKind.ADAPTER, base_model="tiny")
    assert find_base("tiny", registry).digest == registry.resolve("tiny:1.0.0").registered.manifest


def test_a_base_model_never_takes_the_name_of_an_adapter(registry, tmp_path):
    register_adapter(registry, tmp_path, "bot", "tiny")
    with pytest.raises(ConflictError, match=r"bot:1\.0\.0 is of kind adapter, and 'bot' can't get.*kind base"):
        registry.register(make_model(tmp_path / "tiny"), name="bot", kind=ModelKind.BASE)


def test_what_one_run_trains_whole_and_the_next_as_an_adapter_has_one_name(registry, tmp_path):
    folder = make_model(tmp_path / "finder")
    for kind in (ModelKind.EMBEDDING, ModelKind.ADAPTER, ModelKind.EMBEDDING, ModelKind.MERGED):
        registry.register(folder, name="finder", kind=kind, base_model="tiny", method="full")
    assert registry.resolve("finder").ref == "finder:1.3.0"


def test_a_retired_version_holds_no_name_and_a_merged_model_may_follow_an_adapter(registry, tmp_path):
    register_adapter(registry, tmp_path, "bot", "tiny")
    registry.register(make_model(tmp_path / "merged"), name="bot", kind=ModelKind.MERGED, base_model="tiny")
    registry.retire("bot:1.0.0", message="old")
    assert registry.register(tmp_path / "merged", name="bot", kind=ModelKind.BASE).ref == "bot:1.2.0"


def test_no_model_has_the_name_that_asks_for_the_best_one(registry, tmp_path):
    with pytest.raises(InputError, match="'auto' can't be a model's name: in requests it stands for the best model"):
        registry.register(make_model(tmp_path / "tiny"), name="auto", kind=ModelKind.BASE)
