"""The data of a model and of its ancestors, and test sets that are compared with them."""

import json
from types import SimpleNamespace

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.datasets.contamination import Decontamination
from llamafarm_ray.workflows.evaluation import run as runs
from llamafarm_ray.workflows.evaluation.model import EvaluatedModel
from llamafarm_ray.workflows.versions.training_data import TrainingData, find_inherited_data, joined


def row(name, question):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "It opened in 1832."}]
    return {"id": name, "messages": messages}


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"), principal="ann")


@pytest.fixture
def line(registry, tmp_path):
    """A base, a model that was merged from an adapter trained on the first dataset, and an adapter on that."""

    def files(name):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"name": name}))
        return folder

    def made(name, kind=ModelKind.BASE, **facts):
        return registry.register(files(name), name=name, kind=kind, **facts).registered

    dataset = tmp_path / "first.jsonl"
    dataset.write_text(json.dumps(row("1", "When did the mill open?")))
    digest = read_dataset(dataset).digest
    base = made("root")
    taught = made("taught", base_digest=base.manifest, dataset="first", dataset_digest=digest)
    merged = made("merged", ModelKind.MERGED, base_digest=base.manifest, derived_from=(taught.manifest,))
    last = made("last", base_digest=merged.manifest, dataset="second", dataset_digest="sha256:" + "b" * 64)
    return SimpleNamespace(dataset=dataset, merged=merged, last=last, folder=tmp_path / "merged")


def inherited(registry, line, **asked):
    config = parse_config({"dataset": {"path": str(line.dataset)}})
    asked = {"folder": None, "version": "", "base": line.folder, "base_digest": line.merged.manifest} | asked
    return find_inherited_data(config, registry, **asked)


def test_what_was_taught_before_a_merge_is_training_data_of_an_adapter_on_it(registry, line):
    (found,) = inherited(registry, line, version="last:1.0.0")
    assert [one["messages"][0]["content"] for one in found.rows] == ["When did the mill open?"]
    assert found.name.startswith("first@")


def test_an_adapter_and_a_base_that_are_folders_have_ancestors_too(registry, line, tmp_path):
    trained = {"lineage": {"base_digest": line.merged.manifest, "dataset_digest": "sha256:" + "c" * 64}}
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "training.json").write_text(json.dumps(trained))
    (found,) = inherited(registry, line, folder=tmp_path / "adapter")
    assert len(found.rows) == 1
    (tmp_path / "base").mkdir()
    merged = {"lineage": {"dataset": "first", "dataset_digest": read_dataset(line.dataset).digest}}
    (tmp_path / "base" / "training.json").write_text(json.dumps(merged))
    (found,) = inherited(registry, line, base=tmp_path / "base", base_digest="sha256:" + "d" * 64)
    assert len(found.rows) == 1


def test_data_of_a_model_and_its_ancestors_are_one_for_what_it_memorized():
    own, before = TrainingData("b", (row("1", "Own?"),)), TrainingData("a", (row("1", "Old?"), row("2", "Older?")))
    unknown = TrainingData("", reason="its lineage names no training data")
    both = joined([own, unknown, before])
    assert both.name == "b and a"
    assert {one["id"]: one["messages"][0]["content"] for one in both.rows} == {"1": "Own?", "2": "Older?"}
    assert joined([unknown]) == unknown


def test_examples_of_a_test_set_that_were_trained_on_are_left_out_and_shown(tmp_path, monkeypatch):
    rows = [row("1", "When did the mill open?"), row("2", "Who built the inn by the sea?")]
    asked = []

    def evaluate(**settings):
        asked.extend(settings["rows"])
        return EvaluationResult("bot", "t", {"held_out": BenchmarkScores({"perplexity": 3.0})})

    monkeypatch.setattr(
        runs, "open_dataset", lambda *_, **__: SimpleNamespace(train=SimpleNamespace(take_all=lambda: rows))
    )
    monkeypatch.setattr(runs, "evaluate", evaluate)
    sets = Decontamination([TrainingData("first@1", (rows[0],))], leaves_out=True)
    config = parse_config({"evaluation": {"metrics": ["perplexity"], "test_set": "tests.jsonl"}})
    model = EvaluatedModel("bot", tmp_path, None, "w", base_weights="w")
    run = runs.EvaluationRun(config, model, None, tmp_path, True, None, decontamination=sets)
    run._held_out(tmp_path, None)
    assert [one["id"] for one in asked] == ["2"]
    assert sets.report["test_set"]["num_overlapping"] == 1
