"""A dataset appears whole, or not at all, and never in the place of something else."""

import json
import os
import socket
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.data.rows import Example, Message, Provenance
from llamafarm_ray.data.writing import target_for
from llamafarm_ray.errors import ConflictError, InputError, StorageError
from llamafarm_ray.types import Digest


def rows(*questions):
    return [
        Example((Message("user", question), Message("assistant", "A.")), "d", "sha256:0", "p").row()
        for question in questions
    ]


def build(output, train=("a", "b"), validation=("c",), digest="one", *, overwrite=False, row_format="chatml"):
    target = target_for(output, row_format, overwrite=overwrite)
    target.check()
    with target.open():
        target.add("train", rows(*train))
        if validation:
            target.add("validation", rows(*validation))
        target.finish({"digest": digest}, {"name": "n"})
        return target.publish()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_holds_shards_description_and_report(tmp_path):
    assert build(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["dataset.json", "report.json", "train", "validation"]
    table = pq.read_table(tmp_path / "out" / "train" / "part-00000.parquet")
    assert table.column_names == ["id", "messages", "document", "document_digest", "passage", "provenance", "pii"]
    assert table["messages"].to_pylist()[0][0] == {"role": "user", "content": "a"}


def test_shards_have_the_same_rows_however_the_rows_come(tmp_path, monkeypatch):
    monkeypatch.setattr("llamafarm_ray.data.writing._ROWS_PER_SHARD", 2)
    target = target_for(tmp_path / "out", "chatml", overwrite=False)
    with target.open():
        for question in "abcde":
            target.add("train", rows(question))
        target.finish({"digest": "x"}, {})
        target.publish()
    build(tmp_path / "other", tuple("abcde"), ())
    for shard in ("part-00000", "part-00001", "part-00002"):
        one, other = (tmp_path / name / "train" / f"{shard}.parquet" for name in ("out", "other"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", ["out", "out.json", "out.jsonl"])
def test_nothing_is_left_after_an_error(tmp_path, name):
    target = target_for(tmp_path / name, "chatml", overwrite=False)

    def interrupted():
        with target.open():
            target.add("train", rows("a"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["out", "out.json"])
def test_the_same_dataset_stays_and_another_is_a_conflict(tmp_path, name):
    build(tmp_path / name)
    before = (tmp_path / name).stat().st_ino
    assert build(tmp_path / name) is False
    with pytest.raises(ConflictError, match="exists already"):
        build(tmp_path / name, ("z",), digest="two")
    assert (tmp_path / name).stat().st_ino == before
    assert build(tmp_path / name, ("z",), (), digest="two", overwrite=True)
    assert names(tmp_path) == (["out"] if name == "out" else ["out.json", "out.report.json"])


def test_a_folder_that_is_no_dataset_is_never_replaced(tmp_path):
    (tmp_path / "photo.jpg").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(ConflictError, match="is no dataset"):
            build(tmp_path, overwrite=overwrite)
    assert names(tmp_path) == ["photo.jpg"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    assert build(tmp_path / "out")


def test_json_files_are_in_the_format_asked_for(tmp_path):
    build(tmp_path / "qa.json", row_format="alpaca")
    assert names(tmp_path) == ["qa.json", "qa.report.json", "qa.validation.json"]
    record = json.loads((tmp_path / "qa.json").read_text())[1]
    assert record | {"instruction": "b", "input": "", "output": "A."} == record
    assert len(json.loads((tmp_path / "qa.validation.json").read_text())) == 1
    build(tmp_path / "qa.jsonl", row_format="sharegpt")
    lines = (tmp_path / "qa.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["conversations"][0] == {"from": "human", "value": "a"}


@pytest.mark.parametrize("row_format", ["alpaca", "sharegpt", "chatml"])
@pytest.mark.parametrize("output", ["qa", "qa.json", "qa.jsonl", "qa.csv", "qa.parquet"])
def test_records_of_every_format_name_document_passage_page_and_model(tmp_path, output, row_format):
    provenance = Provenance("endpoint", model="writer", page=7)
    example = Example(
        (Message("user", "a"), Message("assistant", "A.")), "d.pdf", Digest.of(b"d"), "p", provenance=provenance
    )
    target = target_for(tmp_path / output, row_format, overwrite=False)
    with target.open():
        target.add("train", [example.row()])
        description = {
            "digest": Digest.of(b"one"),
            "num_train": 1,
            "num_validation": 0,
            "documents": [],
            "name": "n",
            "seed": 0,
        }
        target.finish({**description, "format_version": 1}, {"name": "n"})
        target.publish()
    (row,) = read_dataset(tmp_path / output).rows["train"]
    assert (row["document"], row["document_digest"], row["passage"]) == ("d.pdf", Digest.of(b"d"), "p")
    assert Provenance.of(json.loads(row["provenance"])) == provenance


def test_origins_that_are_not_known_make_no_fields(tmp_path):
    target = target_for(tmp_path / "qa.json", "alpaca", overwrite=False)
    with target.open():
        target.add("train", [Example((Message("user", "a"), Message("assistant", "A.")), "", "", "").row()])
        target.finish({"digest": "one"}, {"name": "n"})
        target.publish()
    assert json.loads((tmp_path / "qa.json").read_text()) == [{"instruction": "a", "input": "", "output": "A."}]


def test_what_a_killed_build_left_is_cleared_and_what_a_running_one_writes_is_not(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    host = socket.gethostname()
    dead, alive = (tmp_path / f".out.building-{host}-{pid}" for pid in (process.pid, os.getppid()))
    elsewhere = tmp_path / ".out.building-another-1"
    for folder in (dead, alive, elsewhere):
        folder.mkdir()
    build(tmp_path / "out")
    assert names(tmp_path) == sorted([alive.name, elsewhere.name, "out"])


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="can't be written"):
        build(tmp_path / "file" / "out")
    with pytest.raises(InputError, match="can't be replaced"):
        build(tmp_path.__class__("/"))
