"""Images of conversations stay with their rows as references, and training refuses them by name."""

import json

import pytest

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build.existing_rows import checked_examples, read_source_rows
from llamafarm_ray.data.dataset import check_dataset
from llamafarm_ray.data.formats import format_row
from llamafarm_ray.data.formats.images import refuse_images
from llamafarm_ray.data.formats.values import RecordError
from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.data.rewriting import write_rows
from llamafarm_ray.data.row_kinds import row_of_kind
from llamafarm_ray.data.rows import Example, Message
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.data.training_rows import parse_row
from llamafarm_ray.errors import InputError
from llamafarm_ray.workflows.datasets.validate import validate

ANSWER = {"role": "assistant", "content": "A mill."}
SAID = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A mill."}]
PART = {"type": "image_url", "image_url": {"url": "a.png"}}
QUESTION = {"type": "text", "text": "What is it?"}


def asked(*parts):
    return [{"role": "user", "content": list(parts)}, ANSWER]


FORMS = {
    "openai": {"messages": asked(PART, QUESTION)},
    "openai responses": {"messages": asked({"type": "input_image", "image_url": "a.png"}, QUESTION)},
    "a path in a part": {"messages": asked({"type": "image", "path": "a.png"}, QUESTION)},
    "trl": {"messages": asked({"type": "image"}, QUESTION), "images": [{"path": "a.png", "bytes": None}]},
    "sharegpt": {"conversations": SAID, "images": ["a.png"]},
    "cells of a table": {"conversations": json.dumps(SAID), "images": '["a.png"]'},
    "llava": {"conversations": SAID, "image": "a.png"},
    "alpaca": {"instruction": "<image>\nWhat is it?", "output": "A mill.", "images": ["a.png"]},
    "our rows": {"messages": [{"role": "user", "content": "<image>\nWhat is it?", "images": ["a.png"]}, ANSWER]},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_row_and_is_written_in_every_format(form):
    _, (row,) = parse_row(FORMS[form])
    assert row["messages"][0] == {"role": "user", "content": "<image>\nWhat is it?", "images": ["a.png"]}
    for row_format in ("chatml", "sharegpt", "alpaca", "prompt_completion"):
        (record,) = format_row(row, "chat", row_format)
        assert "a.png" in json.dumps(record)
        assert parse_row(record)[1] == [row]


def test_other_tools_get_parts_or_a_column():
    _, (row,) = parse_row(FORMS["sharegpt"])
    assert list(format_row(row, "chat", "chatml")) == [FORMS["openai"]]
    assert list(format_row(row, "chat", "sharegpt")) == [FORMS["sharegpt"]]
    inside = {"conversations": [{"from": "human", "value": "Is <image> it?"}, SAID[1]], "images": ["b.png"]}
    _, (row,) = parse_row(inside)
    (record,) = format_row(row, "chat", "chatml")
    assert record["messages"][0] == {"role": "user", "content": "Is <image> it?", "images": ["b.png"]}


def test_several_images_stand_at_their_marks_and_tell_rows_apart():
    turns = [
        *asked(PART, QUESTION, {**PART, "image_url": "b.png"}),
        {"role": "user", "content": "And <image>?"},
        ANSWER,
    ]
    _, (row,) = parse_row({"messages": turns, "images": ["c.png"]})
    assert [turn.get("images") for turn in row["messages"]] == [["a.png", "b.png"], None, ["c.png"], None]
    _, (other,) = parse_row({"messages": turns, "images": ["d.png"]})
    assert row["id"] != other["id"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"conversations": SAID, "images": ["a.png", "b.png"]}, "has 2 images, and 1 marks <image>"),
        ({"messages": asked({"type": "image"}, QUESTION)}, "has 0 images, and 1 marks <image>"),
        ({"conversations": SAID, "images": [{"bytes": "iVBO", "path": "a.png"}]}, r"bytes of an image as images\[0\]"),
        ({"conversations": SAID, "images": ["data:image/png;base64,iVBO"]}, r"an image itself as images\[0\]"),
        ({"conversations": SAID, "images": [7]}, r"has a number as images\[0\], not the path or address"),
        ({"messages": asked({"type": "audio", "audio": "a.wav"}, QUESTION)}, "only texts and images are known"),
        (
            {"messages": [{"role": "user", "content": "Draw it."}, {"role": "assistant", "content": [PART]}]},
            "a turn of the role assistant; only users show images",
        ),
        (
            {"prompt": "Draw it.", "chosen": [{"role": "assistant", "content": [PART]}], "rejected": "No."},
            "only users show images",
        ),
    ],
)
def test_what_is_no_reference_is_refused(record, message):
    with pytest.raises(RecordError, match=message):
        parse_row(record)


def test_a_mark_without_images_is_a_word():
    _, (row,) = parse_row({"instruction": "What does <image> mean in SVG?", "output": "It shows a picture."})
    assert "images" not in row["messages"][0]


def test_preferences_and_judgements_keep_the_images_of_their_prompt():
    for record in (
        {"prompt": "<image>Which?", "chosen": "A.", "rejected": "B."},
        {"conversations": SAID, "label": True},
    ):
        kind, (row,) = parse_row({**record, "images": ["a.png"]})
        assert row["messages"][0]["images"] == ["a.png"]
        whole = {**row, "document": "a.jsonl", "document_digest": f"sha256:{64 * '0'}", "passage": ""}
        ((example, _),) = checked_examples(whole, kind.name, DatasetConfig(), Ledger())
        assert row_of_kind(example.build_row(0), kind.name)["messages"] == row["messages"]


def test_examples_of_a_build_keep_them():
    _, (row,) = parse_row(FORMS["sharegpt"])
    whole = {**row, "document": "a.jsonl", "document_digest": f"sha256:{64 * '0'}", "passage": ""}
    ((example, _),) = checked_examples(whole, "chat", DatasetConfig(), Ledger())
    assert row_of_kind(example.build_row(0), "chat")["messages"] == row["messages"]
    shown = Example((Message("user", "<image>", images=("a.png",)),), "", "", "")
    assert Example.from_json(shown.to_json()) == shown


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "a.jsonl"
    plain = {"instruction": "When does it open?", "output": "At eight."}
    path.write_text("".join(f"{json.dumps(one)}\n" for one in (plain, FORMS["sharegpt"], FORMS["openai"])))
    return path


@pytest.mark.parametrize("name", ["out", "b.jsonl", "b.json", "b.csv", "b.parquet"])
def test_a_dataset_that_is_exported_has_the_same_rows(tmp_path, dataset, name):
    found = read_dataset(dataset)
    write_rows(found, tmp_path / name, name="b", row_format=None, overwrite=False)
    again = read_dataset(tmp_path / name)
    assert [row["messages"] for row in again.rows["train"]] == [row["messages"] for row in found.rows["train"]]
    assert validate(tmp_path / name, max_bad=1).unused[str(tmp_path / name)] == {"images": 2}


def test_training_refuses_them_and_reports_count_them(tmp_path, dataset):
    with pytest.raises(InputError, match=r"a\.jsonl has rows with images, as 'a\.png': training and evaluation take"):
        check_dataset(dataset)
    assert read_source_rows(dataset, DatasetConfig()).harvest.notes == {
        "a.jsonl": ["training does not use 'images' of 2 records"]
    }
    for row_format in (None, "sharegpt"):
        output = tmp_path / f"built-{row_format}"
        write_rows(read_dataset(dataset), output, name="b", row_format=row_format, overwrite=False)
        with pytest.raises(InputError, match=r"built-\w+ has rows with images, as 'a\.png'"):
            check_dataset(output)
    refuse_images([{"role": "user", "content": "<image>"}], "a row")


def test_llama_factorys_list_names_the_column(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"conversations": SAID, "pictures": ["a.png"]}]))
    entry = {
        "file_name": "a.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "images": "pictures"},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mills": entry}))
    found = read_dataset(tmp_path / "dataset_info.json#mills")
    assert found.rows["train"][0]["messages"][0]["images"] == ["a.png"]
