"""Models that are evaluated come to the machine that a task of the evaluation runs on."""

import shutil
import uuid

import pytest
from tiny_adapters import write_adapter, write_base

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import InfrastructureError, InputError
from llamafarm_ray.evaluation.benchmarks.workers import _Worker
from llamafarm_ray.evaluation.remote import _Done, _run, before_each, preparation
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.storage import Location
from llamafarm_ray.workflows.evaluation.model import EvaluatedModel, fetch_models
from llamafarm_ray.workflows.register import Registration, register


def whole_base(folder):
    """A base model that can be trained on, as far as its files' names tell."""
    base = write_base(folder)
    (base / "tokenizer.json").write_text("{}")
    return base


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A home that is no folder, with a base model and an adapter on it."""
    monkeypatch.setenv("LLAMAFARM_CACHE", str(tmp_path / "cache"))
    made = RegistryService(Location(f"memory://{uuid.uuid4().hex}/home"))
    base = whole_base(tmp_path / "Support_Base")
    register(made, Registration(base))
    register(made, Registration(write_adapter(tmp_path / "bot", base)))
    shutil.rmtree(base)
    return made


@pytest.mark.parametrize("name", ["bot", "Support_Base"])
def test_a_version_is_fetched_where_it_is_not(registry, name, tmp_path):
    found = EvaluatedModel.find(parse_config({"base_model": "Support_Base"}), registry, name)
    folders = [folder for folder in found.folders if folder is not None]
    shutil.rmtree(tmp_path / "cache")  # as on another machine
    assert not any(folder.exists() for folder in folders)
    fetch_models([found], registry.home.uri)
    assert all((folder / "config.json").exists() or (folder / "adapter_config.json").exists() for folder in folders)


def test_a_folder_that_another_machine_has_alone_is_named(registry, tmp_path):
    base = whole_base(tmp_path / "other")
    found = EvaluatedModel.find(
        parse_config({"base_model": str(base)}), registry, str(write_adapter(tmp_path / "b", base))
    )
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(InputError, match=r"b is in .* on the machine that evaluates, and not on .* Register it"):
        found.fetch(registry.home.uri)


def test_tasks_and_actors_fetch_before_they_work():
    done = []
    with before_each(lambda: done.append("fetched")):
        prepare = preparation()
        assert _Worker(1, prepare).is_ready() is None
        *_, last = _run("json:dumps", {}, 1, prepare)
    assert preparation() is None
    assert done == ["fetched", "fetched"]
    assert isinstance(last, InfrastructureError), "json.dumps takes no callback: the task came so far"
    assert not isinstance(last, _Done)

    def fails():
        raise InputError("nothing here")

    assert isinstance(_Worker(1, fails).is_ready(), InputError)
    assert [str(item) for item in _run("json:dumps", {}, 1, fails)] == ["nothing here"]
