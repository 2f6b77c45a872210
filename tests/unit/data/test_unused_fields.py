"""Fields that training does not use are named for each file, with the number of their records."""

import json

import pytest

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data import build_dataset
from llamafarm_ray.data.training_rows import kind_of
from llamafarm_ray.data.unused_fields import unused_fields
from llamafarm_ray.workflows.datasets.validate import validate

TURNS = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "At 9."}]


@pytest.mark.parametrize(
    ("record", "unused"),
    [
        ({"messages": TURNS, "tools": [], "system": "Be brief.", "id": "1"}, ()),
        ({"messages": TURNS, "category": "hours", "score": 0, "note": None, "tags": []}, ("category", "score")),
        ({"instruction": "Sum up.", "input": "Long.", "output": "Short.", "lang": "en"}, ("lang",)),
        ({"question": "When?", "answer": "At 9.", "context": "The mill.", "response_time": 3}, ("response_time",)),
        ({"messages": TURNS, "prompt": "When?"}, ("prompt",)),
        ({"prompt": "When?", "chosen": "At 9.", "rejected": "At 8.", "margin": 2}, ("margin",)),
        ({"question": "When?", "answer": "At 9.", "label": True, "by": "ann"}, ("by",)),
        ({"anchor": "When?", "positive": "At 9.", "negative_1": "At 8.", "split": "a"}, ("split",)),
        ({"anchor": "When?", "positive": "At 9.", "negative_score": 0.3}, ("negative_score",)),
        ({"query": "When?", "pos": ["At 9."], "neg_scores": [1], "prompt": "Find it."}, ("neg_scores", "prompt")),
        ({"text": "At 9.", "url": "https://mill.example"}, ("url",)),
        ({"messages": [TURNS[0], {**TURNS[1], "loss_mask": 0, "id": "2"}]}, ("messages[].loss_mask",)),
        ({"prompt": TURNS[:1], "completion": TURNS[1:], "context": "The mill."}, ("context",)),
        ({"prompt": "When?", "context": "The mill.", "chosen": "At 9.", "rejected": "At 8."}, ()),
        ({"messages": TURNS[:1], "context": "The mill.", "chosen": "At 9.", "rejected": "At 8."}, ("context",)),
        ({"prompt": "When?", "context": "The mill.", "chosen": TURNS, "rejected": TURNS}, ("context",)),
        ({"prompt": "When?", "input": "The mill.", "completion": "At 9.", "label": True}, ()),
    ],
)
def test_fields_beside_those_of_the_kind_are_unused(record, unused):
    assert unused_fields(record, kind_of(record).name) == unused


@pytest.fixture
def chats(tmp_path):
    folder = tmp_path / "chats"
    folder.mkdir()
    for name, extra in (("a.jsonl", {"category": "hours"}), ("b.jsonl", {})):
        records = [
            {"messages": [{"role": "user", "content": f"{name} {number}?"}, TURNS[1]], **(extra if number else {})}
            for number in range(4)
        ]
        (folder / name).write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return folder


def test_a_build_and_a_check_name_them_for_each_file(chats, tmp_path):
    config = DatasetConfig.model_validate({"source": {"type": "conversation_logs"}})
    report = build_dataset(str(chats), tmp_path / "out", config, name="chats", seed=1)
    assert report.documents.notes == {"a.jsonl": ["training does not use 'category' of 3 records"]}
    found = validate(chats / "a.jsonl", max_bad=3)
    assert found.unused == {str(chats / "a.jsonl"): {"category": 3}}
    assert validate(chats / "b.jsonl", max_bad=3).unused == {}
