"""A sweep that was stopped is the same one when its files lie elsewhere."""

import shutil
from types import SimpleNamespace

import pytest
from tiny_model import make_tiny_model

from llamafarm_ray.config import parse_config
from llamafarm_ray.registry import open_registry
from llamafarm_ray.tuning.space import Space
from llamafarm_ray.workflows.tuning.tune import TuningRun

ROW = '{"messages": [{"role": "user", "content": "Q%d?"}, {"role": "assistant", "content": "A."}]}\n'


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "_ray_pkg_aaaa"
    make_tiny_model(folder / "base")
    (folder / "qa.jsonl").write_text("".join(ROW % number for number in range(9)))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LLAMAFARM_HOME", str(tmp_path / "home"))
    return folder


def prepared(**changes):
    dataset = {"path": "qa.jsonl", "validation": {"split_ratio": 0.2}}
    table = {
        "base_model": "base",
        "name": "bot",
        "dataset": dataset,
        "tuning": {"parameters": {"fine_tuning.parameters.r": {"choice": [4, 8]}}},
    }
    config = parse_config(table | changes)
    return TuningRun.prepare(config, open_registry(None))


def facts(run):
    splits = SimpleNamespace(digest="sha256:" + "0" * 64)
    return run._facts(run.config, Space.of(run.config), splits, is_auto=False)


def test_a_sweep_goes_on_though_its_folder_is_another_copy(project, monkeypatch):
    before = facts(prepared())
    copy = shutil.copytree(project, project.with_name("_ray_pkg_bbbb"))
    (copy / "notes.md").write_text("added")
    monkeypatch.chdir(copy)
    assert facts(prepared()) == before


def test_a_sweep_with_another_base_or_split_is_another_one(project):
    before = facts(prepared())
    assert facts(prepared(dataset={"path": "qa.jsonl", "validation": {"split_ratio": 0.4}})) != before
    make_tiny_model(project / "base", seed=1)
    assert facts(prepared()) != before


def test_missing_validation_rows_are_said_before_there_is_a_cluster(project):
    from llamafarm_ray.errors import UserError

    with pytest.raises(UserError, match=r"no validation rows. Set dataset\.validation\.split_ratio"):
        prepared(dataset={"path": "qa.jsonl"})
