"""The verbs of `llamafarm datasets`: look at datasets, check, convert, compare and merge them."""

import json
from dataclasses import replace

import pytest

from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.data.rewriting import merge_rows, reformatted, write_rows
from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import DatasetRegistered, SourceDocument, open_registry
from llamafarm_ray.registry.commands import RegisterDataset
from llamafarm_ray.types import Digest


def write(path, records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def pairs(*numbers):
    return [{"instruction": f"Q{number}?", "output": f"A{number}."} for number in numbers]


def with_source(record, document, text):
    digest = Digest.of(text.encode())
    return {**record, "document": document, "document_digest": digest, "passage": text}


@pytest.fixture
def files(folders):
    """Two datasets that share a row; the second one names its source documents."""
    write(folders / "a.jsonl", pairs(1, 2, 3))
    write(folders / "a.validation.jsonl", pairs(4))
    sourced = [with_source(record, f"doc-{index}.md", f"text {index}") for index, record in enumerate(pairs(3, 4, 5))]
    write(folders / "b.jsonl", sourced)
    return folders


def test_a_file_is_checked_row_by_row_and_all_bad_rows_are_named(llamafarm, files):
    bad = [{"question": "Q?", "answer": ""}, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}]
    with (files / "bad.jsonl").open("w") as file:
        file.write("".join(f"{json.dumps(record)}\n" for record in [*pairs(1, 1), *bad, {"text": "All."}]) + "{\n")
    status, out, _ = llamafarm.run("datasets", "validate", "bad.jsonl", "--json")
    found = json.loads(out)
    assert status == 2
    assert (found["rows"], found["num_rows"], found["num_bad"]) == ({"train": {"chat": 2}}, 2, 4)
    assert found["num_duplicates"] == 1
    assert [(row["place"], row["reason"].split(":")[0]) for row in found["bad"]] == [
        ("line 3", "has an empty 'answer'."),
        ("line 4", "has null as messages[0].content[0].image_url, not the path or address of an image."),
        ("line 5", "is a text row, and the first one is a chat row; a dataset has one kind."),
        ("line 6", "is not valid JSON"),
    ]
    assert (
        len(json.loads(llamafarm.run("datasets", "validate", "bad.jsonl", "--max-bad", "1", "--json")[1])["bad"]) == 1
    )
    assert llamafarm.run("datasets", "validate", "bad.jsonl")[0] == 2
    assert "All 4 rows can be used" in llamafarm.text("datasets", "validate", "a.jsonl")
    (files / "empty.jsonl").write_text("\n")
    status, out, _ = llamafarm.run("datasets", "validate", "empty.jsonl")
    assert (status, out.strip()) == (2, "empty.jsonl has no rows.")
    write(files / "a.validation.jsonl", pairs(3))
    assert llamafarm.json("datasets", "validate", "a.jsonl")["num_leaked"] == 1


def test_only_a_folder_that_was_built_here_has_a_place_for_tokens(llamafarm, files):
    status, _, said = llamafarm.run("datasets", "tokenize", "a.jsonl", "--base-model", "none")
    assert status == 2
    assert "was not built here" in said
    assert "llamafarm datasets merge" in said


@pytest.mark.parametrize("output", ["again", "again.jsonl"])
def test_a_dataset_of_several_passes_stays_one_in_another_form(files, output):
    found = replace(read_dataset(files / "a.jsonl"), passes=4)
    write_rows(found, files / output, name="again", row_format=None, overwrite=False)
    written = read_dataset(files / output)
    assert written.passes == reformatted(written, "chatml").passes == 4
    assert merge_rows([written, read_dataset(files / "b.jsonl")]).rows.passes == 1
    assert merge_rows([written, written]).rows.passes == 4


@pytest.mark.parametrize("passes", [0, "x", None, 1.5])
def test_passes_that_are_no_number_of_passes_are_refused(files, passes):
    write_rows(read_dataset(files / "a.jsonl"), files / "bad", name="bad", row_format=None, overwrite=False)
    described_as = json.loads((files / "bad" / "dataset.json").read_text())
    (files / "bad" / "dataset.json").write_text(json.dumps(described_as | {"passes": passes}))
    with pytest.raises(InputError, match="not the description of a dataset"):
        read_dataset(files / "bad")


def test_merged_datasets_have_each_row_once_with_its_source(llamafarm, files):
    written = llamafarm.json("datasets", "merge", "a.jsonl", "b.jsonl", "--output", "both")
    assert (written["num_train"], written["num_validation"], written["num_duplicates"]) == (4, 1, 2)
    found = read_dataset(files / "both")
    assert found.digest == written["digest"]
    assert [row["messages"][0]["content"] for row in found.rows["validation"]] == ["Q4?"], "held out of one, of all"
    sources = {row["messages"][0]["content"]: row["document"] for row in found.rows["train"]}
    assert sources == {"Q1?": "a.jsonl", "Q2?": "a.jsonl", "Q3?": "a.jsonl", "Q5?": "doc-2.md"}
    assert {document.path for document in found.documents} == {"a.jsonl", "a.validation.jsonl", "doc-2.md"}
    assert llamafarm.text("datasets", "merge", "a.jsonl", "b.jsonl", "--output", "both.jsonl.gz").startswith("Wrote 4")
    assert read_dataset(files / "both.jsonl.gz").digest == written["digest"]
    (listed,) = [one for one in llamafarm.json("datasets", "list") if one["location"].endswith("/both")]
    assert (listed["name"], listed["num_train"], len(listed["documents"])) == ("both", 4, 3)
    traced = llamafarm.json("models", "trace", "--document", "doc-2.md")
    assert len(read_dataset(files / "both#validation").rows["train"]) == 1, "a split of a built folder has a name too"
    assert any(node["label"] == "both" for node in traced["nodes"])
    write(files / "text.jsonl", [{"text": "All."}])
    assert (
        "different kinds" in llamafarm.error("datasets", "merge", "a.jsonl", "text.jsonl", "--output", "x")["message"]
    )
    assert "at least two" in llamafarm.error("datasets", "merge", "a.jsonl", "--output", "x")["message"]


@pytest.mark.parametrize("output", ["out", "out.json", "out.jsonl.zst", "out.csv", "out.parquet"])
def test_an_exported_dataset_is_the_same_in_every_format_and_type(llamafarm, files, output):
    llamafarm.json("datasets", "merge", "a.jsonl", "b.jsonl", "--output", "both")
    before = read_dataset(files / "both")
    for row_format in ("chatml", "sharegpt", "alpaca", "prompt_completion"):
        path = f"{row_format}/{output}"
        llamafarm.json("datasets", "export", "both", "--format", row_format, "--output", path)
        after = read_dataset(files / path)
        assert after.digest == before.digest
        assert {split: len(rows) for split, rows in after.rows.items()} == {"train": 4, "validation": 1}
    assert llamafarm.json("datasets", "diff", "both", path)["num_common"] == 5


def test_what_a_format_can_not_hold_is_refused(llamafarm, files):
    write(files / "better.jsonl", [{"prompt": "Q?", "chosen": "A.", "rejected": "B."}])
    llamafarm.json("datasets", "export", "better.jsonl", "--format", "kto", "--output", "liked.jsonl")
    assert [row["label"] for row in read_dataset(files / "liked.jsonl").rows["train"]] == [True, False]
    error = llamafarm.error("datasets", "export", "better.jsonl", "--format", "alpaca", "--output", "x.jsonl")
    assert "holds preference rows, which are no alpaca" in error["message"]
    error = llamafarm.error("datasets", "export", "a.jsonl", "--output", "x.arrow")
    assert "are read only" in error["message"]
    write(files / "long.jsonl", [{"messages": [{"role": r, "content": "x"} for r in ("user", "assistant") * 2]}])
    error = llamafarm.error("datasets", "export", "long.jsonl", "--format", "alpaca", "--output", "x.csv")
    assert "4 turns does not fit the format alpaca" in error["message"]
    assert not (files / "x.csv").exists()
    assert llamafarm.error("datasets", "export", "a.jsonl", "--output", "b.jsonl")["code"] == "conflict"


def test_a_difference_names_rows_and_documents(llamafarm, files):
    changed = [with_source(pairs(3)[0], "doc-0.md", "other text"), with_source(pairs(6)[0], "doc-9.md", "text 9")]
    write(files / "c.jsonl", changed)
    found = llamafarm.json("datasets", "diff", "b.jsonl", "c.jsonl")
    assert (found["num_common"], found["num_removed"], found["num_added"]) == (1, 2, 1)
    assert {(one["path"], one["change"]) for one in found["documents"]} == {
        ("doc-0.md", "changed"),
        ("doc-1.md", "removed"),
        ("doc-2.md", "removed"),
        ("doc-9.md", "added"),
    }
    assert "Q6?" in llamafarm.text("datasets", "diff", "b.jsonl", "c.jsonl")
    assert "Both hold the same 4 rows" in llamafarm.text("datasets", "diff", "a.jsonl", "a.jsonl")


def test_a_sample_is_the_same_for_the_same_seed(llamafarm, files):
    first = llamafarm.json("datasets", "sample", "a.jsonl", "-n", "2")
    assert first == llamafarm.json("datasets", "sample", "a.jsonl", "-n", "2")
    assert len(first) == 2
    assert first[0]["record"]["messages"][0]["role"] == "user"
    (held_out,) = llamafarm.json("datasets", "sample", "a.jsonl", "--split", "validation")
    assert dict(held_out["texts"])["user"] == "Q4?"
    assert "assistant: A4." in llamafarm.text("datasets", "sample", "a.jsonl", "--split", "validation")
    assert (
        "no rows of the split 'test'" in llamafarm.error("datasets", "sample", "a.jsonl", "--split", "test")["message"]
    )


def test_registered_datasets_are_shown_with_the_models_trained_on_them(bot, files):
    assert bot.json("datasets", "list") == []
    assert "There are no datasets yet" in bot.text("datasets", "list")
    digests = [Digest.of(text.encode()) for text in ("old", "new")]
    for digest in digests:
        documents = (SourceDocument(path="a.md", digest=digest, num_examples=3),)
        event = DatasetRegistered(
            name="qa",
            digest=digest,
            num_train=3,
            num_validation=1,
            location=str(files / "a.jsonl"),
            documents=documents,
        )
        open_registry(str(files / "home")).submit(RegisterDataset(event), reason="test")
    listed = bot.json("datasets", "list")
    assert [(one["name"], one["digest"], one["is_newest"]) for one in listed] == [
        ("qa", digests[1], True),
        ("qa", digests[0], False),
    ]
    shown = bot.json("datasets", "show", "qa")
    assert (shown["digest"], shown["versions"]) == (digests[1], digests[::-1])
    assert bot.json("datasets", "show", f"qa@{digests[0][7:19]}")["digest"] == digests[0]
    assert "a.md" in bot.text("datasets", "show", "qa")
    assert len(bot.json("datasets", "sample", "qa", "-n", "9")) == 4, "a name stands for the place it was written to"
    assert "Did you mean qa" in bot.error("datasets", "show", "qaa")["hint"]
    assert "names no one version" in bot.error("datasets", "show", "qa@ffffff")["message"]
    assert "no file and no dataset 'gone'" in bot.error("datasets", "sample", "gone")["message"]
