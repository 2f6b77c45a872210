"""A model in vLLM on the cluster writes for a dataset: the real engine, through Ray Data."""

import json

import pytest
from dataset_builds import build
from tiny_model import make_tiny_model

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.generation.cluster import asking
from llamafarm_ray.data.generation.endpoint.answers import parse_json
from llamafarm_ray.errors import InputError

pytestmark = pytest.mark.long


def test_every_answer_of_a_model_in_vllm_parses_and_is_asked_for_once(ray_cluster, tmp_path, monkeypatch):
    # A random model writes noise: the grammar makes it JSON, and the checks drop it.
    source = tmp_path / "docs"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.md").write_text(f"# House {number}\n\nThe house {number} opens at {number}:30.\n")
    base = make_tiny_model(tmp_path / "tiny")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    vllm = {"max_output_tokens": 1600, "temperature": 0.0, "engine_kwargs": {"enforce_eager": True}}
    qa = {"model": "vllm", "questions_per_doc": 1, "phrasings": 1, "vllm": vllm}
    settings = DatasetConfig.model_validate({"preprocessing": {"qa_generation": qa}})
    cache = tmp_path / "cache"
    told = _refused_build(source, tmp_path / "out", settings, base, cache)
    answers = [parse_json(json.loads(path.read_text())["content"]) for path in cache.rglob("*.json")]
    assert len(answers) == 3
    assert all(set(pair) == {"questions", "answer"} for answer in answers for pair in answer["pairs"])

    def no_engine(*_):
        raise AssertionError("an engine is started for answers that are stored")

    monkeypatch.setattr(asking, "answers_of", no_engine)
    assert _refused_build(source, tmp_path / "out", settings, base, cache) == told
    assert "JSON" not in told


def _refused_build(source, output, settings, base, cache):
    with pytest.raises(InputError, match="gave no example") as caught:
        build(source, output, settings, base_model=str(base), cache=str(cache))
    return str(caught.value)
