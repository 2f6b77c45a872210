"""Pairs that a model writes are counted, checked against their passages, and keep their origin."""

import pytest

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build.documents import examples_of, files_table, process_documents
from llamafarm_ray.data.generation import Written
from llamafarm_ray.data.generation.stage import batches_of
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Example, Message, Provenance
from llamafarm_ray.data.sources import SourceFile
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.text.refusals import NOT_SAID
from llamafarm_ray.types import Digest

DIGEST = Digest.of(b"")
PROVENANCE = Provenance("endpoint", "gpt", "1", "abc")
CONFIG = DatasetConfig.model_validate({"preprocessing": {"qa_generation": {"questions_per_doc": None}}})


def passage(index, text):
    return Passage("a.md", DIGEST, "The Mill", ("The Mill", "Hours"), text, index, 2)


def example(question, answer, index=0):
    messages = (Message("user", question), Message("assistant", answer))
    return Example(messages, "a.md", DIGEST, "text", "", index, provenance=PROVENANCE)


def test_unsupported_answers_are_dropped_and_everything_is_counted():
    first, second = passage(0, "The mill opens at 09:00. Entry costs 4 euros."), passage(1, "Parking is free.")
    written = {
        first: Written(
            (
                example("When does the mill open?", "The mill opens at 09:00."),
                example("When does the mill close?", "The mill closes at 18:00."),
                example("Who owns the mill?", NOT_SAID["en"]),
            ),
            {"no JSON": 1},
        ),
        second: Written(),
    }
    ledger = Ledger()
    rows = examples_of(written, CONFIG, ledger)
    assert [row["messages"][1]["content"] for row in rows] == ["The mill opens at 09:00.", NOT_SAID["en"]]
    assert [row["covers"] for row in rows] == [[0], []]
    counts = ledger.to_dict()
    assert counts["generate"] == {
        "rows_in": 2,
        "rows_out": 3,
        "dropped": {"no JSON": 1, "passage without a question": 1},
    }
    assert counts["check_support"]["dropped"] == {"the passage does not support the answer": 1}
    origin = '{"generator": "endpoint", "model": "gpt", "prompt": "1", "settings": "abc"}'
    assert Provenance.without_place(rows[0]["provenance"]) == origin


def test_an_answer_may_name_what_the_headings_name():
    written = {
        passage(0, "It opens at 09:00."): Written((example("When does the mill open?", "The Mill opens at 09:00."),))
    }
    assert len(examples_of(written, CONFIG, Ledger())) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_batches_hold_the_passages_in_order(size):
    passages = [passage(index, "t") for index in range(7)]
    batches = batches_of(passages, size)
    assert [one for batch in batches for one in batch] == passages
    assert {len(batch) for batch in batches[:-1]} <= {size}


def test_passages_and_examples_survive_the_way_through_a_table():
    one = passage(3, "T\u00e9xt \u2013 with\nlines")
    assert Passage.from_json(one.to_json()) == one
    pair = example("Q?", "A.")
    assert Example.from_json(pair.to_json()) == pair


def test_with_a_model_a_document_gives_its_passages_and_their_number(tmp_path):
    path = tmp_path / "a.md"
    path.write_text("# Mill\n\nThe mill opens at 09:00.\n\n# Shop\n\nThe shop sells flour.\n")
    (table,) = process_documents(files_table([SourceFile("a.md", bytes(path))]), config=CONFIG, by_rules=False)
    (row,) = table.to_pylist()
    passages = [Passage.from_json(text) for text in row["passages"]]
    assert [(one.index, one.num_passages, one.text) for one in passages] == [
        (0, 2, "The mill opens at 09:00."),
        (1, 2, "The shop sells flour."),
    ]
    assert (row["num_facts"], row["examples"]) == (2, [])
