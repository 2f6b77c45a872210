"""Rows that join questions, in formats that hold one question and its answer."""

import json

import pytest

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.augmentation.by_heart import rows_by_heart
from llamafarm_ray.data.augmentation.practice import practice_rows
from llamafarm_ray.data.augmentation.single_turns import single_turns
from llamafarm_ray.data.augmentation.with_passages import rows_with_passages
from llamafarm_ray.data.build.assembly import Assembly
from llamafarm_ray.data.rows import Example, Message
from llamafarm_ray.data.split import Split
from llamafarm_ray.data.text import sentences_of
from llamafarm_ray.data.writing import target_for
from llamafarm_ray.types import Digest

PASSAGE = "The mill opens at nine. Question: is it closed on Monday? A tour costs four euros."


def asked(number):
    turns = (Message("user", f"What is fact {number}?"), Message("assistant", f"Fact {number} holds."))
    return Example(turns, "mill.md", Digest.of(b"1"), PASSAGE, f"fact {number}").build_row(number, [number])


def joined():
    rows = [asked(number) for number in range(3)]
    yield from rows_by_heart(rows, seed=1, passes=2)
    yield from rows_with_passages(rows, seed=1, passes=4)
    yield from practice_rows(3, seed=1)


def test_each_question_of_a_row_is_a_row_with_the_same_passages():
    (row,) = rows_with_passages([asked(0), asked(1)])
    singles = [[turn["content"] for turn in single["messages"]] for single in single_turns(row)]
    first, second = singles
    asked_first, asked_second = (single[0].rpartition("\n\nQuestion: ")[2] for single in singles)
    assert first == [turn["content"] for turn in row["messages"][:2]]
    assert second == [first[0].replace(asked_first, asked_second), row["messages"][3]["content"]]
    assert {asked_first, asked_second} == {"What is fact 0?", "What is fact 1?"}
    assert set(sentences_of(PASSAGE)) <= set(second[0].splitlines())


@pytest.mark.parametrize(
    ("row_format", "keys"),
    [("alpaca", {"instruction", "input", "output"}), ("prompt_completion", {"prompt", "completion"})],
)
def test_a_format_of_one_answer_gets_each_question_of_joined_rows_once(tmp_path, row_format, keys):
    config = DatasetConfig.model_validate({"preprocessing": {"format": row_format}})
    target = target_for(tmp_path / "out.jsonl", row_format, overwrite=False)
    with target.open():
        assembly = Assembly(target, Split(frozenset(), "nothing"), kind="chat", config=config)
        for row in [*joined(), *joined()]:
            assembly.add_joined(row)
        assembly.flush()
        target.finish({"digest": Digest.of(b"1"), "num_train": 1, "num_validation": 0}, {})
        target.publish()
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert all(keys <= record.keys() for record in records)
    assert len({json.dumps(record) for record in records}) == len(records)
    prompts = [str(record.get("instruction", record.get("prompt"))) for record in records]
    for number in range(3):
        question = f"What is fact {number}?"
        assert question in prompts
        assert sum(prompt.endswith(f"Question: {question}") for prompt in prompts) >= 1
