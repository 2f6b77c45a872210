"""The engine of benchmarks: chosen by files or configuration, and one for both sides of a comparison."""

import importlib.util
import json
from pathlib import Path

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.evaluation.benchmarks.backends import LOADERS
from llamafarm_ray.evaluation.engines import TOKEN_ENGINES
from llamafarm_ray.evaluation.kept import KeptBatches
from llamafarm_ray.storage import Location
from llamafarm_ray.workflows.evaluation.backend import asked_models, backend_of, check_backend, measured_on
from llamafarm_ray.workflows.evaluation.model import EvaluatedModel

ADDRESS = {"base_url": "http://127.0.0.1:1/v1"}


def settings(**evaluation):
    return parse_config({"evaluation": evaluation}).evaluation


@pytest.fixture
def whole(tmp_path):
    folder = tmp_path / "whole"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 77}), encoding="utf-8")
    (folder / "model.safetensors").touch()
    return EvaluatedModel("whole", folder, None, "w-whole")


@pytest.fixture
def gguf(tmp_path):
    folder = tmp_path / "gguf"
    folder.mkdir()
    (folder / "model.gguf").touch()
    return EvaluatedModel("small", folder, None, "w-gguf")


def test_a_ggufs_engine_is_llama_cpp_and_an_address_means_an_endpoint(whole, gguf):
    assert (backend_of(settings(), whole), backend_of(settings(), gguf)) == ("transformers", "gguf")
    assert backend_of(settings(endpoint=ADDRESS), whole) == "endpoint"
    assert backend_of(settings(backend="vllm"), whole) == "vllm"


def test_two_engines_are_never_one_comparison(whole, gguf):
    with pytest.raises(InputError, match="their scores can't be compared"):
        check_backend(settings(), whole, gguf)
    with pytest.raises(InputError, match="small is a GGUF file"):
        check_backend(settings(backend="transformers"), whole, gguf)
    with pytest.raises(InputError, match="whole is no GGUF file"):
        check_backend(settings(backend="gguf"), gguf, whole)
    with pytest.raises(InputError, match="one endpoint is asked at a time"):
        check_backend(settings(endpoint=ADDRESS), whole, whole)
    check_backend(settings(), whole, whole)


def test_what_an_engine_lacks_is_said_before_anything_is_loaded(whole, gguf, monkeypatch):
    with pytest.raises(InputError, match="needs an address"):
        check_backend(settings(backend="endpoint"), whole, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedError, match=r"needs llama\.cpp"):
        check_backend(settings(), gguf, None)


def test_an_adapter_is_compared_with_its_base_on_the_same_engine(whole, tmp_path):
    adapted = EvaluatedModel("bot", whole.base, tmp_path, "w-bot", "bot:1.0.0", "w-whole")
    model, base = asked_models(settings(), adapted, None)
    assert (model.weights, model.with_adapter, base.weights, base.with_adapter) == ("w-bot", True, "w-whole", False)
    assert (base.backend, base.options) == (model.backend, model.options)
    model, rival = asked_models(settings(backend="vllm"), adapted, whole)
    assert (model.backend, rival.backend, rival.weights) == ("vllm", "vllm", "w-whole")


def test_an_endpoint_is_asked_for_the_version_and_nothing_of_it_is_kept(whole, tmp_path):
    adapted = EvaluatedModel("bot", whole.base, tmp_path, "w-bot", "bot:1.0.0", "w-whole")
    model, baseline = asked_models(settings(endpoint=ADDRESS), adapted, None)
    assert (model.keeps, baseline, model.options["folder"]) == (False, None, whole.base)
    assert model.options["endpoint"].model == "bot:1.0.0"
    measured = measured_on(settings(endpoint=ADDRESS), adapted, KeptBatches(Location(tmp_path), "answers"))
    assert (measured.has_base, measured.kept_answers(with_adapter=True)) == (False, None)
    model, _ = asked_models(settings(endpoint={**ADDRESS, "model": "other"}), whole, None)
    assert model.options["endpoint"].model == "other"


def test_every_backend_has_a_module():
    root = Path(__file__).parents[4]
    for loader in [*LOADERS.values(), *TOKEN_ENGINES.values()]:
        module, _, name = loader.partition(":")
        text = (root / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert f"class {name}" in text or f"def {name}" in text
