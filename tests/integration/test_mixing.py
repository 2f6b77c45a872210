"""Datasets of several tasks, and rows that are no conversations, opened on Ray."""

import json
from collections import Counter

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.data import open_dataset, open_mixture
from llamafarm_ray.data.dataset import _split
from llamafarm_ray.errors import ConfigError, InputError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def write(folder, name, records):
    path = folder / name
    path.write_text("\n".join(json.dumps(record) for record in records))
    return str(path)


def chats(name, number):
    return [
        {"messages": [{"role": "user", "content": f"{name} {index}?"}, {"role": "assistant", "content": f"{index}."}]}
        for index in range(number)
    ]


@pytest.fixture
def two(tmp_path):
    small, large = write(tmp_path, "small.jsonl", chats("small", 4)), write(tmp_path, "large.jsonl", chats("large", 20))
    write(tmp_path, "large.validation.jsonl", chats("held out", 3))
    return {small: 1.0, large: 1.0}


def questions(dataset):
    return Counter(row["messages"][0]["content"] for row in dataset.take_all())


def test_a_mixture_has_its_weights_shares_and_all_documents(two):
    mixed, parts = open_mixture(two, seed=5)
    found = questions(mixed.train)
    assert [(part.num_rows, part.num_taken) for part in parts] == [(20, 12), (4, 12)]
    assert {question: count for question, count in found.items() if "small" in question} == {
        f"small {index}?": 3 for index in range(4)
    }
    assert sorted(count for question, count in found.items() if "large" in question) == [1] * 12
    assert sorted(row["repetition"] for row in mixed.train.take_all()) == [0] * 16 + [1] * 4 + [2] * 4
    assert sum(questions(mixed.validation).values()) == 3
    assert {document.path for document in mixed.documents} == {"small.jsonl", "large.jsonl", "large.validation.jsonl"}


def test_the_seed_and_the_weights_say_which_rows_and_their_order_does_not_matter(two):
    mixed, _ = open_mixture(two, seed=5)
    again, _ = open_mixture(dict(reversed(two.items())), seed=5)
    other, _ = open_mixture(two, seed=6)
    weighted, _ = open_mixture({path: 2.0 + index for index, path in enumerate(two)}, seed=5)
    assert questions(mixed.train) == questions(again.train) != questions(other.train)
    assert mixed.digest == again.digest
    assert len({mixed.digest, other.digest, weighted.digest}) == 3


def test_rows_of_other_kinds_are_opened_with_their_columns_and_not_mixed_with_chats(tmp_path, two):
    pairs = write(tmp_path, "pairs.jsonl", [{"prompt": f"{n}?", "chosen": "yes", "rejected": "no"} for n in range(3)])
    matches = write(tmp_path, "matches.json", [])
    (tmp_path / "matches.json").write_text(json.dumps([{"anchor": "a", "positive": "b"}]))
    rows = open_dataset(tmp_path / "pairs.jsonl").train.take_all()
    assert [(row["messages"][0]["content"], row["chosen"], row["document"]) for row in rows] == [
        (f"{number}?", "yes", "pairs.jsonl") for number in range(3)
    ]
    assert open_dataset(tmp_path / "matches.json").train.take_all()[0]["negatives"] == []
    with pytest.raises(InputError, match="rows of different kinds"):
        open_mixture({pairs: 1.0, matches: 1.0}, seed=0)


def test_rows_are_held_out_of_files_and_of_folders_by_one_rule(tmp_path, two):
    write(tmp_path, "pairs.jsonl", [{"prompt": f"{n}?", "chosen": "yes", "rejected": "no"} for n in range(10)])
    of_file = open_dataset(tmp_path / "pairs.jsonl", split_ratio=0.3, seed=1)
    of_folder = _split(open_dataset(tmp_path / "pairs.jsonl").train, 0.3, 1)
    for one, other in zip((of_file.train, of_file.validation), of_folder, strict=True):
        assert [row["id"] for row in one.take_all()] == [row["id"] for row in other.take_all()]
    assert (of_file.train.count() + of_file.validation.count(), of_file.validation.count() > 0) == (10, True)
    splits, _ = open_mixture(dict.fromkeys(two, 1.0), split_ratio=0.25, seed=0)
    assert splits.validation.count() > 0


def test_a_mixture_is_configured_by_paths_and_weights(two):
    config = parse_config({"dataset": {"mixture": dict.fromkeys(two, 2)}})
    assert dict(config.dataset.mixture) == dict.fromkeys(two, 2.0)
    with pytest.raises(ConfigError, match=r"dataset\.mixture"):
        parse_config({"dataset": {"mixture": dict(two), "path": "here"}})
    with pytest.raises(ConfigError, match=r"dataset\.mixture"):
        parse_config({"dataset": {"mixture": dict.fromkeys(two, 0)}})


def test_a_mixture_that_is_trained_on_is_recorded_with_its_documents(two, tmp_path):
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.training.train import TrainingRun

    registry = open_registry(str(tmp_path / "home"))
    config = parse_config({"name": "bot", "dataset": {"mixture": dict(two)}})
    run = TrainingRun(config, registry, None, tmp_path / "out", overwrite=False)
    name, splits, parts, _ = run._open_dataset(None)
    assert (name, len(parts)) == ("bot-mixture", 2)
    recorded = registry.state.dataset_named("bot-mixture")
    assert recorded.digest == splits.digest
    assert recorded.num_train == 24
    assert {document.path for document in recorded.documents} == {
        "small.jsonl",
        "large.jsonl",
        "large.validation.jsonl",
    }


def test_tools_and_marks_of_one_dataset_are_kept_beside_another_without_them(tmp_path):
    tool = {"type": "function", "function": {"name": "weather"}}
    marked = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A.", "weight": 0}]
    chat = {"messages": [*marked, *chats("more", 1)[0]["messages"]], "tools": [tool]}
    with_tools = write(tmp_path, "tools.jsonl", [chat])
    write(tmp_path, "tools.validation.jsonl", [chat])
    plain = write(tmp_path, "plain.jsonl", chats("plain", 1))
    write(tmp_path, "plain.validation.jsonl", chats("held out", 1))
    mixed, _ = open_mixture({with_tools: 1.0, plain: 1.0}, seed=5)
    for rows in (mixed.train.take_all(), mixed.validation.take_all()):
        by_tools = {bool(row["tools"]): row for row in rows}
        assert json.loads(by_tools[True]["tools"]) == [tool]
        assert by_tools[True]["messages"][1]["train"] is False
        assert by_tools[False]["messages"][1]["train"] is None
