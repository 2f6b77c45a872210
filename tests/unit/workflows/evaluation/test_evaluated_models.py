"""Models that are evaluated come to the machine that a task of the evaluation runs on."""

import datetime as dt
import shutil
import time
import uuid

import pytest
from tiny_adapters import write_adapter, write_base

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import InfrastructureError, InputError
from llamafarm_ray.evaluation import remote
from llamafarm_ray.evaluation.benchmarks.workers import _Worker
from llamafarm_ray.evaluation.remote import _Done, _run, before_each, preparation
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.usage import CPU, WorkKey, read_ledger
from llamafarm_ray.storage import Location
from llamafarm_ray.types import DeviceUse
from llamafarm_ray.workflows.evaluation.model import EvaluatedModel, fetch_models
from llamafarm_ray.workflows.versions.register import Registration, register


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


def test_an_evaluation_counts_for_the_versions_namespace_and_for_the_configurations_where_it_is_a_folder(tmp_path):
    home, today = Location(tmp_path / "home"), dt.datetime.now(dt.UTC).date()
    for version in ("team/bot:1.0.0", ""):
        model = EvaluatedModel(version or "bot", tmp_path, None, "w", version)
        with model.meter(home, "other/name") as meter:
            meter.add(DeviceUse(3.0))
    keys = set(read_ledger(home, today))
    assert keys == {WorkKey("team", "bot", "evaluate", CPU), WorkKey("other", "bot", "evaluate", CPU)}


def slow(_settings, _report):
    time.sleep(0.05)
    return "answer"


def test_a_task_says_how_long_it_has_had_its_device(monkeypatch):
    monkeypatch.setattr(remote, "_COUNT_S", 0.02)
    began = time.monotonic()
    *used, last = _run(f"{__name__}:slow", {}, 1)
    assert last == _Done("answer")
    assert len(used) > 1
    assert 0.05 <= sum(one.seconds for one in used) <= time.monotonic() - began


def test_use_is_counted_for_the_innermost_block_on_gpus_where_the_cluster_has_some(monkeypatch):
    counted = []
    for num_gpus in (0, 4):
        monkeypatch.setattr(remote, "total", lambda _name, number=num_gpus: number)
        with remote.metered(counted.append):
            remote.use_counter()(2.0)
        remote.use_counter()(1.0)
    assert counted == [DeviceUse(2.0), DeviceUse(2.0, on_gpu=True)]


def test_tasks_and_actors_fetch_before_they_work():
    done = []
    with before_each(lambda: done.append("fetched")):
        prepare = preparation()
        assert _Worker(1, prepare).is_ready() >= 0
        *_, last = _run("json:dumps", {}, 1, prepare)
    assert preparation() is None
    assert done == ["fetched", "fetched"]
    assert isinstance(last, InfrastructureError), "json.dumps takes no callback: the task came so far"
    assert not isinstance(last, _Done)

    def fails():
        raise InputError("nothing here")

    assert isinstance(_Worker(1, fails).is_ready(), InputError)
    *_, last = _run("json:dumps", {}, 1, fails)
    assert str(last) == "nothing here"
