"""An adapter that nobody proved is proved when it is pulled."""

import pytest
from tiny_adapters import change_config, write_adapter, write_base

from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.versions.pull import pull


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"))


def registered(registry, tmp_path, **config):
    """A version that was registered without a proof, and its registered base."""
    base = registry.register(write_base(tmp_path / "base"), name="base", kind=ModelKind.BASE)
    adapter = write_adapter(tmp_path / "bot", tmp_path / "base")
    change_config(adapter, **config)
    digest = base.registered.manifest
    return registry.register(adapter, name="bot", kind=ModelKind.ADAPTER, base_digest=digest), base


def test_one_that_fits_is_pulled(registry, tmp_path):
    record, base = registered(registry, tmp_path)
    registry.pull(base.ref)
    assert (pull(registry, record.ref).folder / "adapter_config.json").is_file()


def test_one_that_does_not_fit_the_base_that_is_here_is_refused(registry, tmp_path):
    record, base = registered(registry, tmp_path, r=8)
    pull(registry, record.ref)  # its base is elsewhere, and its own files say nothing
    registry.pull(base.ref)
    with pytest.raises(InputError, match=r"bot:1\.0\.0 is no usable adapter: .*wrong shapes"):
        pull(registry, record.ref, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_that_no_base_could_fit_is_refused_without_it(registry, tmp_path):
    record, _ = registered(registry, tmp_path, r=0)
    with pytest.raises(InputError, match="r is 0"):
        pull(registry, record.ref)
