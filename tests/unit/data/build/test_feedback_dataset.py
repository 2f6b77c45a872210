"""From what users said to a file that can be trained on, with nothing lost in between."""

import json

import pytest

from llamafarm_ray.config import DatasetConfig, parse_config
from llamafarm_ray.data.build.feedback_dataset import build_feedback_dataset
from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.errors import ConflictError, InputError, UnsupportedError
from llamafarm_ray.registry import open_registry
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.datasets.create_dataset import check_source, create_dataset


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


def build(feedback, output, *, ratio=0.0, strict=False, dataset=None, **options):
    config = {"validation": {"split_ratio": ratio}, "source": {"strict": strict}, **(dataset or {})}
    options = {"objective": "dpo", "seed": 1, "name": "said", **options}
    return build_feedback_dataset(feedback, output, DatasetConfig.model_validate(config), **options)


@pytest.mark.parametrize(("objective", "num_rows"), [("dpo", 5), ("kto", 11)])
def test_choices_between_two_answers_are_rows_beside_corrections(feedback, tmp_path, objective, num_rows):
    record = said("5?", None, chosen="better 5", rejected="worse 5")
    del record["answer"]
    Location(feedback).create("2026/11/24/c.jsonl", f"{json.dumps(record)}\n".encode())
    report, documents = build(feedback, tmp_path / "said.jsonl", objective=objective)
    assert report.num_train == num_rows
    assert documents[-1].path == "2026/11/24/c.jsonl"
    _, rows = read_rows(tmp_path / "said.jsonl")
    found = [row for row in rows if row["messages"][0]["content"] == "5?"]
    said_of = (
        [(row["chosen"], row["rejected"]) for row in found]
        if objective == "dpo"
        else [(row["messages"][-1]["content"], row["label"]) for row in found]
    )
    expected = {"dpo": [("better 5", "worse 5")], "kto": [("better 5", True), ("worse 5", False)]}
    assert sorted(said_of) == expected[objective]


def test_corrections_become_preferences(feedback, tmp_path):
    report, documents = build(feedback, tmp_path / "said.jsonl")
    kind, rows = read_rows(tmp_path / "said.jsonl")
    assert kind.name == "preference"
    assert sorted((row["messages"][0]["content"], row["chosen"], row["rejected"]) for row in rows) == [
        (f"{n}?", f"right {n}", f"wrong {n}") for n in range(4)
    ]
    assert (report.num_train, report.num_validation) == (4, 0)
    step = report.steps[0]
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
    assert held_out
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
    step = report.steps[0]
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


LEAKED = "The password is hunter2xyzzy, the card is 4111 1111 1111 1111."


def test_personal_data_of_feedback_is_redacted_by_default_in_questions_and_all_answers(tmp_path):
    home = Location(str(tmp_path / "home"))
    records = [
        said(f"My card is 4111 1111 1111 1111, may I use door {n}?", LEAKED, correction=f"Use door {n}.")
        for n in range(3)
    ]
    home.create("a.jsonl", "".join(f"{json.dumps(record)}\n" for record in records).encode())
    for objective in ("dpo", "kto"):
        report, _ = build(home.uri, tmp_path / f"{objective}.jsonl", objective=objective)
        written = (tmp_path / f"{objective}.jsonl").read_text()
        assert "4111 1111" not in written
        assert "[CARD]" in written
        assert {step.name: step for step in report.steps}["pii"].noted["card redacted"] >= 6
    dropped = {"quality_control": {"pii": {"action": "drop"}}}
    with pytest.raises(InputError, match=r"No example is left.*has personal data: card"):
        build(home.uri, tmp_path / "none.jsonl", dataset=dropped)


def test_filters_over_single_rows_and_the_whole_set_are_for_feedback_too(feedback, tmp_path):
    (tmp_path / "exam.txt").write_text("2?\n")
    quality = {"decontaminate": [str(tmp_path / "exam.txt")], "filters": {"maximum_length": 12}}
    Location(feedback).create("2026/11/24/c.jsonl", json.dumps(said("5?", "no", correction="yes, of course")).encode())
    report, _ = build(feedback, tmp_path / "said.jsonl", dataset={"quality_control": quality})
    steps = {step.name: step for step in report.steps}
    assert steps["check_length"].dropped == {"longer than maximum_length": 1}
    assert steps["decontaminate"].dropped == {"overlaps an evaluation set": 1}
    asked = {row["messages"][0]["content"] for row in read_rows(tmp_path / "said.jsonl")[1]}
    assert asked == {"0?", "1?", "3?"}


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ({"quality_control": {"min_quality_score": 0.5}}, "min_quality_score scores answers by their passages"),
        ({"preprocessing": {"system_prompt": "Be brief."}}, "system_prompt is for chats"),
        ({"preprocessing": {"format": "alpaca"}}, "preference can't be written as alpaca"),
    ],
)
def test_settings_that_mean_nothing_for_feedback_are_refused(feedback, tmp_path, dataset, says):
    with pytest.raises(InputError, match=says):
        build(feedback, tmp_path / "said.jsonl", dataset=dataset)


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
    with pytest.raises(InputError, match=r"augmentation is for chats, and the rows are preference rows"):
        check_source(config_for(path="said.jsonl", augmentation={"enabled": True}))


def test_rows_from_feedback_want_a_file():
    with pytest.raises(InputError, match=r"feedback\.jsonl"):
        check_source(config_for())
