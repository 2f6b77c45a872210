"""Datasets whose pairs a model writes."""

import json
from pathlib import Path

import pytest
from chat_server import chat_server, pairs_for
from dataset_builds import build, by_model, rows_of
from tiny_model import make_tiny_model

from llamafarm_ray.config import DatasetConfig, load_config
from llamafarm_ray.data import open_dataset
from llamafarm_ray.data.text import sentences_of
from llamafarm_ray.errors import AccessDeniedError, InputError


def test_the_training_split_is_asked_with_passages_too_and_nothing_held_out_is(ray_cluster, corpus, tmp_path):
    with chat_server() as server:
        config = by_model(server.url, with_passages="auto")
        build(corpus, tmp_path / "out", config, cache=str(tmp_path / "cache"))
    splits = open_dataset(tmp_path / "out")
    train, held_out = splits.train.take_all(), splits.validation.take_all()
    with_passages = [row for row in train if "Question: " in row["messages"][0]["content"]]
    by_heart = {row["messages"][0]["content"] for row in train if row not in with_passages}
    asked = {turn["content"].rpartition("Question: ")[2] for row in with_passages for turn in row["messages"][::2]}
    assert asked == by_heart
    for row in with_passages:
        shown = row["messages"][0]["content"].splitlines()
        assert any(sentence in shown for sentence in sentences_of(row["passage"].partition("\n")[2]))
    assert {row["messages"][0]["content"] for row in held_out}.isdisjoint(asked)


SEEDS = Path(__file__).parents[1] / "unit" / "config" / "data" / "seeds"


@pytest.mark.parametrize("name", ["unified", "enhanced", "advanced"])
def test_the_seeds_dataset_blocks_build_as_printed(ray_cluster, corpus, tmp_path, monkeypatch, name):
    with chat_server(answer=_pairs_or_items) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        config = load_config(SEEDS / f"{name}.json").dataset
        build(corpus, tmp_path / "out", config, cache=str(tmp_path / "cache"))
        models = {body["model"] for body in server.asked}
    assert models == {"unified": {"gpt-4o-mini-turbo"}, "enhanced": set(), "advanced": {"gpt-4"}}[name]
    rows = rows_of(open_dataset(tmp_path / "out"))
    assert rows
    if name == "unified":
        asked = [row["messages"][0]["content"] for row in rows]
        assert {len(row["messages"]) for row in rows} == {2}
        assert any("Question: " in question for question in asked)


def _pairs_or_items(body):
    """Pairs of a passage; and where examples are to be invented, none."""
    return pairs_for(body) if "\n\nFrom: " in body["messages"][1]["content"] else json.dumps({"items": []})


def test_pairs_of_a_model_are_checked_and_say_where_they_are_from(ray_cluster, corpus, tmp_path):
    with chat_server() as server:
        report = build(corpus, tmp_path / "out", by_model(server.url), cache=str(tmp_path / "cache"))
    assert (report.generator.name, report.generator.model) == ("endpoint", "gpt")
    assert "endpoint.base_url is set" in report.generator.reason
    steps = {step.name: step for step in report.steps}
    checks = ["check_substance", "check_length", "check_support", "limit", "deduplicate", "near_duplicates"]
    assert list(steps) == ["clean", "boilerplate", "language", "passages", "pii", "generate", *checks]
    assert steps["generate"].rows_in == len(server.asked) == 12
    assert report.coverage.documents["house-1.md"] == [2, 2]
    assert (report.coverage.num_facts, report.coverage.share) == (22, 1.0)
    rows = rows_of(open_dataset(tmp_path / "out"))
    assert len(rows) == report.num_examples == 22
    provenance = json.loads(rows[0]["provenance"])
    assert (provenance["generator"], provenance["model"]) == ("endpoint", "gpt")


def test_an_error_of_the_endpoint_reaches_the_caller_as_it_is(ray_cluster, corpus, tmp_path):
    with (
        chat_server(fault=lambda *_: "401") as server,
        pytest.raises(AccessDeniedError, match="does not accept the key"),
    ):
        build(corpus, tmp_path / "out", by_model(server.url), cache=str(tmp_path / "cache"))


def test_a_model_without_an_endpoint_is_refused_before_any_work(ray_cluster, tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    config = DatasetConfig.model_validate({"preprocessing": {"qa_generation": {"model": "gpt-4o"}}})
    with pytest.raises(InputError, match=r"gpt-4o.*no endpoint") as caught:
        build(tmp_path, tmp_path / "out", config)
    assert "OPENAI_API_KEY" in caught.value.hint


def test_the_base_model_writes_pairs_in_an_actor_and_what_it_can_not_is_counted(ray_cluster, tmp_path):
    # A random model learns the lessons and writes noise: every step runs, and nothing of it becomes an example.
    source = tmp_path / "mill.md"
    source.write_text("# The Mill\n\nA tour of the mill costs 4.50 euros and takes forty minutes.\n")
    config = DatasetConfig.model_validate({"preprocessing": {"qa_generation": {"model": "base_model"}}})
    base = str(make_tiny_model(tmp_path / "tiny"))
    with pytest.raises(InputError, match="gave no example"):
        build(source, tmp_path / "out", config, base_model=base)
    assert not (tmp_path / "out").exists()
