"""Files of examples are read, checked and split before there is a cluster."""

import json

import pytest

from llamafarm_ray.data.dataset import check_dataset
from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.data.rows import ROW_SCHEMA
from llamafarm_ray.errors import InputError
from llamafarm_ray.types import Digest


def records(number, **marks):
    return [
        {"messages": [{"role": "user", "content": f"Q{index}?"}, {"role": "assistant", "content": "A.", **marks}]}
        for index in range(number)
    ]


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_rows_that_exist_are_split_by_the_ratio_and_no_other_way(tmp_path):
    path = write(tmp_path / "qa.jsonl", records(200))
    assert list(read_dataset(path).rows) == ["train"]
    found = read_dataset(path, split_ratio=0.2)
    assert sum(map(len, found.rows.values())) == 200
    assert 20 < len(found.rows["validation"]) < 60
    assert sum(document.num_examples for document in found.documents) == 200
    assert found.digest == read_dataset(path).digest, "the file is the same dataset, however it is split"
    assert read_dataset(path, split_ratio=0.2, seed=1).rows != found.rows
    assert (check_dataset(path), check_dataset(path, split_ratio=0.2)) == (False, True)


def test_a_validation_file_beside_the_rows_comes_first(tmp_path):
    path = write(tmp_path / "qa.jsonl", records(20))
    write(tmp_path / "qa.validation.jsonl", records(3))
    assert {split: len(rows) for split, rows in read_dataset(path, split_ratio=0.2).rows.items()} == {
        "train": 20,
        "validation": 3,
    }


def test_marks_of_turns_have_a_column_where_there_are_marks(tmp_path):
    plain, marked = (
        write(tmp_path / f"{index}.jsonl", records(2, **marks)) for index, marks in enumerate(({}, {"weight": 0}))
    )
    assert read_dataset(plain).schema == ROW_SCHEMA
    found = read_dataset(marked)
    assert "train" in str(found.schema.field("messages"))
    assert [turn.get("train") for turn in found.rows["train"][0]["messages"]] == [None, False]


def test_a_bad_record_is_found_without_a_cluster(tmp_path):
    with pytest.raises(InputError, match=r"line 3 has 'videos'"):
        check_dataset(write(tmp_path / "qa.jsonl", [*records(2), {**records(1)[0], "videos": ["x"]}]))
    with pytest.raises(InputError, match="at least two different prompts"):
        check_dataset(write(tmp_path / "one.jsonl", records(1)), split_ratio=0.5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no dataset\.json"):
        check_dataset(tmp_path / "empty")
    (tmp_path / "qa.pdf").write_text("")
    with pytest.raises(InputError, match="is no dataset"):
        check_dataset(tmp_path / "qa.pdf")


def test_rows_that_name_their_documents_are_held_out_by_document(tmp_path):
    rows = [
        {
            **record,
            "document": f"doc-{index % 10}.md",
            "document_digest": Digest.of(str(index % 10).encode()),
            "passage": f"Text {index}.",
        }
        for index, record in enumerate(records(40))
    ]
    path = write(tmp_path / "qa.jsonl", rows)
    found = read_dataset(path, split_ratio=0.2)
    sides = [{row["document"] for row in of_split} for of_split in found.rows.values()]
    assert sides[0].isdisjoint(sides[1])
    assert len(found.documents) == 10
    # A share of less than one document is chosen by prompt instead.
    few = read_dataset(path, split_ratio=0.05).rows
    assert 0 < len(few["validation"]) < 10
