"""Datasets of other rows than questions, and the recipes."""

import json
from pathlib import Path

import pytest
from chat_server import chat_server
from dataset_builds import build, names

from llamafarm_ray.cli.main import run
from llamafarm_ray.config import DatasetConfig, load_config
from llamafarm_ray.data import open_dataset
from llamafarm_ray.data.reading import read_dataset


def test_logs_of_conversations_become_a_dataset_without_a_model(ray_cluster, tmp_path):
    chats = [
        [{"role": "user", "content": f"What does room {n} cost?"}, {"role": "assistant", "content": f"{n + 40} euros."}]
        for n in range(10)
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f"{json.dumps({'messages': chat})}\n" for chat in [*chats, chats[0]]))
    config = {"source": {"type": "conversation_logs"}, "validation": {"split_ratio": 0.2}}
    report = build(log, tmp_path / "out", DatasetConfig.model_validate(config))
    assert (report.num_train + report.num_validation, report.num_validation > 0) == (10, True)
    assert (report.generator, report.coverage) == (None, None)
    assert [document.path for document in open_dataset(tmp_path / "out").documents] == ["log.jsonl"]
    assert (tmp_path / "out" / "report.html").is_file()
    assert names(tmp_path) == ["log.jsonl", "out"]


RECIPES = Path(__file__).parents[2] / "jobs" / "configs" / "recipes"


def test_without_questions_documents_are_texts_and_no_document_is_on_both_sides(ray_cluster, corpus, tmp_path):
    off = {"qa_generation": {"enabled": False}}
    config = DatasetConfig.model_validate({"preprocessing": off, "validation": {"split_ratio": 0.2}})
    report = build(corpus, tmp_path / "out", config)
    splits = open_dataset(tmp_path / "out")
    train, held_out = splits.train.take_all(), splits.validation.take_all()
    assert any("The house 4 opens at 4:30." in row["text"] for row in [*train, *held_out])
    assert report.held_out == "documents"
    assert {row["document"] for row in train}.isdisjoint({row["document"] for row in held_out})
    assert report.generator is None


def test_new_rows_of_documents_come_from_the_training_split_alone(ray_cluster, corpus, tmp_path):
    more = {"augmentation": {"enabled": True}, "synthetic_generation": {"enabled": True, "base_model": "rules"}}
    validation = {"split_ratio": 0.3, "hold_out": "documents"}
    config = DatasetConfig.model_validate({"validation": validation, **more})
    report = build(corpus, tmp_path / "out", config)
    splits = open_dataset(tmp_path / "out")
    train, held_out = splits.train.take_all(), splits.validation.take_all()
    origins = [json.loads(row["provenance"]) for row in train]
    assert {origin.get("method", "") for origin in origins} == {"", "paraphrase", "noise", "synthetic"}
    assert {origin["parent"] for origin in origins if "parent" in origin} <= {row["id"] for row in train}
    assert not any("parent" in row["provenance"] for row in held_out)
    assert {row["document"] for row in train}.isdisjoint({row["document"] for row in held_out})
    assert build(corpus, tmp_path / "again", config).digest == report.digest


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_a_recipe_runs_and_makes_the_rows_that_its_objective_trains(ray_cluster, corpus, tmp_path, monkeypatch, name):
    for number, thumb in enumerate(["up", "down", "up"]):
        record = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Q{number}?"}]}
        (tmp_path / "feedback").mkdir(exist_ok=True)
        (tmp_path / "feedback" / f"{number}.jsonl").write_text(json.dumps({**record, "answer": "A.", "thumb": thumb}))
    monkeypatch.setenv("LLAMAFARM_HOME", str(tmp_path))
    source = [] if name == "strategy_effectiveness" else ["--source", str(corpus)]
    output = tmp_path / ("out.jsonl" if name == "strategy_effectiveness" else "out")
    with chat_server(answer=_items) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        options = ["--config", str(RECIPES / f"{name}.yaml"), *source, "--output", str(output)]
        assert run(["models", "create-dataset", *options]) == 0
    config = load_config(RECIPES / f"{name}.yaml")
    rows = read_dataset(output).rows["train"]
    keys = {"sft": "messages", "contrastive": "negatives", "kto": "label"}
    assert all(keys[config.fine_tuning.objective] in row for row in rows)
    whole = json.dumps(rows)
    assert EXPECTED_IN_RECIPE[name] in whole


EXPECTED_IN_RECIPE = {
    "response_generation": "Question: ",
    "tool_calls": "opening_hours",
    "query_understanding": "Rewrite the last question of this conversation",
    "retrieval": "The house ",
    "prompt_template": "### Context\\n",
    "strategy_effectiveness": "Be brief.",
}


def _items(request):
    """Answer as a model that rewrites a conversation's last question about a house, or looks up its hours."""
    passage = request["messages"][1]["content"].split("\n\nPassage:\n")[1]
    name = " ".join(passage.split()[1:3])
    if "Tools:" in request["messages"][0]["content"]:
        call = {"name": "opening_hours", "arguments": json.dumps({"place": name})}
        return json.dumps({"items": [{"request": f"When does {name} open?", "calls": [call]}]})
    turns = [f"user: I am at {name}", "assistant: Yes?", "user: when does it open"]
    return json.dumps({"items": [{"turns": turns, "query": f"{name} opens when"}]})
