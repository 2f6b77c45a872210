"""From what users said to a file that can be trained on, with nothing lost in between."""

import json

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.data.feedback_dataset import build_feedback_dataset
from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.errors import ConflictError, InputError, UnsupportedError
from llamafarm_ray.registry import open_registry
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.create_dataset import check_source, create_dataset


def read_rows(path):
    """A file's kind of rows, and the rows of its training split."""
    found = read_dataset(path)
    return found.kind, found.rows["train"]


def said(question, answer, **fields):
    record = {"messages": [{"role": "user", "content": question}], "answer": answer, **fields}
    return {"id": "1", "principal": "ben", "version": "bot:1.0.0", "digest": None, **record}


@pytest.fixture
def feedback(tmp_path):
    """Four corrections and a thumb, in two files."""
    home = Location(str(tmp_path / "home" / "feedback"))
    batches = {
        "2026/11/22/a.jsonl": [said(f"{n}?", f"wrong {n}", correction=f"right {n}") for n in range(4)],
        "2026/11/23/b.jsonl": [said("4?", "fine", thumb="up")],
    }
    for name, records in batches.items():
        home.create(name, "".join(f"{json.dumps(record)}\n" for record in records).encode())
    return home.uri


def build(feedback, output, **options):
    return build_feedback_dataset(
        feedback, output, **{"objective": "dpo", "ratio": 0.0, "seed": 1, "name": "said", **options}
    )


def test_corrections_become_preferences(feedback, tmp_path):
    report, documents = build(feedback, tmp_path / "said.jsonl")
    kind, rows = read_rows(tmp_path / "said.jsonl")
    assert kind.name == "preference"
    assert sorted((row["messages"][0]["content"], row["chosen"], row["rejected"]) for row in rows) == [
        (f"{n}?", f"right {n}", f"wrong {n}") for n in range(4)
    ]
    assert (report.num_train, report.num_validation) == (4, 0)
    (step,) = report.steps
    assert (step.rows_in, step.rows_out, step.dropped) == (5, 4, {"no other answer to compare with": 1})
    assert [(document.path, document.num_examples) for document in documents] == [
        ("2026/11/22/a.jsonl", 4),
        ("2026/11/23/b.jsonl", 1),
    ]
    assert documents[0].digest == Digest.of(Location(feedback).read(documents[0].path))


def test_thumbs_become_judgements(feedback, tmp_path):
    build(feedback, tmp_path / "said.json", objective="kto")
    kind, rows = read_rows(tmp_path / "said.json")
    assert kind.name == "judgement"
    assert sum(row["label"] for row in rows) == 5
    assert len(rows) == 9


def test_the_rows_of_a_question_are_held_out_together(feedback, tmp_path):
    build(feedback, tmp_path / "said.jsonl", objective="kto", ratio=0.4)
    train, held_out = (
        {row["messages"][0]["content"] for row in read_rows(tmp_path / name)[1]}
        for name in ("said.jsonl", "said.validation.jsonl")
    )
    assert len(held_out) == 2
    assert train | held_out == {f"{n}?" for n in range(5)}
    assert not train & held_out


def test_the_same_feedback_gives_the_same_file_and_more_of_it_another(feedback, tmp_path):
    output = tmp_path / "said.jsonl"
    first, _ = build(feedback, output)
    before = output.read_bytes()
    again, _ = build(feedback, output)
    assert (again.digest, output.read_bytes()) == (first.digest, before)
    assert (first.created, again.created) == (True, False)
    Location(feedback).create("2026/11/24/c.jsonl", json.dumps(said("5?", "no", correction="yes")).encode())
    with pytest.raises(ConflictError):
        build(feedback, output)
    more, _ = build(feedback, output, overwrite=True)
    assert more.digest != first.digest
    assert len(read_rows(output)[1]) == 5


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2, is no feedback"),
        ("[]", "line 2, is no feedback"),
        ("{}", "line 2, is no feedback"),
        ("[" * 100_000, "line 2, is no feedback"),
        ('{"messages": [{"role": "user", "content": "\\ud83d"}], "answer": "a"}', "line 2, is no feedback"),
        (json.dumps(said(7, "!")), "line 2, is no feedback: The turn 7 of 'user' is no text"),
        (json.dumps(said("?", "!", rating=7)), "not between 0 and 1"),
    ],
)
def test_a_record_that_is_not_sound_is_named_and_left_out(feedback, tmp_path, line, says):
    good = json.dumps(said("?", "!", thumb="up"))
    Location(feedback).create("2026/11/24/c.jsonl", f"{good}\n{line}\n".encode())
    report, documents = build(feedback, tmp_path / "said.jsonl")
    (step,) = report.steps
    assert (step.rows_in, step.rows_out) == (7, 4)
    assert step.dropped["record that is no feedback"] == 1
    (sample,) = step.samples["record that is no feedback"]
    assert sample.startswith("2026/11/24/c.jsonl, line 2, is no feedback:")
    assert says in sample
    assert documents[-1].num_examples == 1
    with pytest.raises(InputError, match=rf"2026/11/24/c\.jsonl.*{says}"):
        build(feedback, tmp_path / "strict.jsonl", strict=True)


def test_a_file_without_feedback_is_skipped_with_its_reason(feedback, tmp_path):
    Location(feedback).create("2026/11/24/c.jsonl", bytes(5000))
    report, _ = build(feedback, tmp_path / "said.jsonl")
    (skipped,) = report.documents.skipped
    assert skipped.path == "2026/11/24/c.jsonl"
    assert skipped.reason.startswith("none of its 1 records can be used: line 1, is no feedback")
    assert (report.documents.found, report.documents.read) == (3, 2)


def test_what_gives_nothing_says_why(feedback, tmp_path):
    with pytest.raises(InputError, match="There is no feedback below"):
        build(str(tmp_path / "nowhere"), tmp_path / "said.jsonl")
    with pytest.raises(UnsupportedError, match="objective sft"):
        build(feedback, tmp_path / "said.jsonl", objective="sft")
    Location(str(tmp_path / "other")).create("a.jsonl", json.dumps(said("?", "!", thumb="up")).encode())
    with pytest.raises(InputError, match=r"None of 1 records .* 1 no other answer"):
        build(str(tmp_path / "other"), tmp_path / "said.jsonl")


def config_for(**dataset):
    dataset = {"source": {"type": "human_feedback"}, **dataset}
    return parse_config({"dataset": dataset, "fine_tuning": {"objective": "dpo"}})


def test_the_verb_reads_what_the_home_has_and_records_what_it_made(feedback, tmp_path):
    registry = open_registry(str(tmp_path / "home"))
    output = tmp_path / "said.jsonl"
    created = create_dataset(config_for(path=str(output), validation={"split_ratio": 0.25}), registry)
    assert (created.name, created.path) == ("said", output)
    recorded = registry.refresh().dataset_named("said")
    assert (recorded.num_train, recorded.num_validation, recorded.digest) == (3, 1, created.report.digest)
    assert [document.path for document in recorded.documents] == ["2026/11/22/a.jsonl", "2026/11/23/b.jsonl"]
    assert len(read_rows(output)[1]) == 3


def test_feedback_is_not_augmented_in_silence():
    with pytest.raises(InputError, match=r"dataset\.augmentation is for chats"):
        check_source(config_for(path="said.jsonl", augmentation={"enabled": True}))


def test_rows_from_feedback_want_a_file():
    with pytest.raises(InputError, match=r"feedback\.jsonl"):
        check_source(config_for())
