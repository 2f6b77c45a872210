"""Examples are read from every file type and folder layout, and a bad one is named by its place."""

import contextlib
import gzip
import json

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.data.records import find_records, open_writer, read_file
from llamafarm_ray.errors import InputError

RECORDS = [{"instruction": f"Q{number}?", "output": f"A{number}."} for number in range(3)]
LINES = "".join(f"{json.dumps(record)}\n" for record in RECORDS).encode()
ASKED = ["Q0?", "Q1?", "Q2?"]


def questions(path, split="train"):
    return [row["messages"][0]["content"] for row in read_dataset(path).rows[split]]


def write_records(records, path):
    with contextlib.closing(open_writer(path)) as writer:
        for record in records:
            writer.add(record)


def table():
    return pa.Table.from_pylist(RECORDS)


def write_stream(path):
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table().schema) as writer:
        writer.write_table(table())


WRITERS = {
    "a.json": lambda path: path.write_text(json.dumps(RECORDS)),
    "lines.json": lambda path: path.write_bytes(LINES),
    "wrapped.json": lambda path: path.write_text(json.dumps({"version": 1, "data": RECORDS})),
    "a.jsonl": lambda path: path.write_bytes(LINES),
    "a.ndjson": lambda path: path.write_bytes(LINES.replace(b"\n", b"\r\n")),
    "utf16.jsonl": lambda path: path.write_text(LINES.decode(), encoding="utf-16"),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "a.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(RECORDS).encode())),
    "a.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(LINES[:40]) + zstandard.compress(LINES[40:])),
    "a.csv": lambda path: path.write_text("instruction,output\nQ0?,A0.\n\nQ1?,A1.\nQ2?,A2.\n"),
    "a.csv.zst": lambda path: path.write_bytes(zstandard.compress(b"instruction,output\nQ0?,A0.\nQ1?,A1.\nQ2?,A2.\n")),
    "semicolons.csv": lambda path: path.write_text("\ufeffinstruction;output\nQ0?;A0.\nQ1?;A1.\nQ2?;A2.\n"),
    "a.tsv": lambda path: path.write_text("instruction\toutput\nQ0?\tA0.\nQ1?\tA1.\nQ2?\tA2.\n"),
    "a.parquet": lambda path: pq.write_table(table(), path),
    "a.feather": lambda path: pyarrow.feather.write_feather(table(), str(path)),
    "a.arrow": write_stream,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_file_type_holds_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert questions(tmp_path / name) == ASKED


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.tsv", "a.parquet"])
@given(records=st.lists(st.dictionaries(st.sampled_from(["prompt", "completion"]), st.text(min_size=1), min_size=2)))
@settings(max_examples=15, deadline=None)
def test_what_is_written_into_a_file_reads_back_the_same(tmp_path_factory, name, records):
    path = tmp_path_factory.mktemp("written") / name
    write_records(records, path)
    if records or name not in {"a.csv", "a.tsv"}:
        assert [record for _, record in read_file(path)] == records
    once = path.read_bytes()
    write_records(records, path)
    assert path.read_bytes() == once


def test_chats_in_the_cells_of_a_table_are_written_as_json(tmp_path):
    turns = json.dumps([{"role": "user", "content": "Q0?"}, {"role": "assistant", "content": "A, or B."}])
    write_records([{"messages": turns}], tmp_path / "a.csv")
    assert questions(tmp_path / "a.csv") == ["Q0?"]
    (tmp_path / "kto.csv").write_text("prompt,completion,label\nQ?,A.,true\nQ?,B.,0\n")
    assert [row["label"] for row in read_dataset(tmp_path / "kto.csv").rows["train"]] == [True, False]


def test_datasets_folders_open_with_their_splits(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    parts = {name: datasets.Dataset.from_list(RECORDS[index:]) for index, name in enumerate(("train", "test"))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "both"))
    parts["train"].save_to_disk(str(tmp_path / "one"), num_shards=2)
    assert questions(tmp_path / "both") == ASKED
    assert questions(tmp_path / "both", "validation") == ASKED[1:]
    assert questions(tmp_path / "both#test") == ASKED[1:]
    assert questions(tmp_path / "one") == ASKED
    with pytest.raises(InputError, match=r"has no split 'dev'.* test"):
        read_dataset(tmp_path / "both#dev")
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(InputError, match=r"lacks the file data-.*, which its state\.json names"):
        read_dataset(tmp_path / "one")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("part-0.parquet", "part-1.parquet"), {"train": 2}),
        (
            ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"),
            {"train": 1, "validation": 1},
        ),
        (("train/a.parquet", "train/b.parquet", "test/a.parquet"), {"train": 2, "validation": 1}),
        (("train/a.parquet", "dev/a.parquet", "test/a.parquet"), {"train": 1, "validation": 1}),
        (("train_sft-0.parquet", "test_sft-0.parquet"), {"train": 1, "validation": 1}),
        (("qa.parquet", "qa.validation.parquet"), {"train": 1, "validation": 1}),
    ],
)
def test_shards_are_put_into_splits_by_their_names(tmp_path, names, expected):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(table(), tmp_path / name)
    (tmp_path / "README.md").write_text("notes")
    assert {split: len(records.files) for split, records in find_records(tmp_path).items()} == expected
    found = read_dataset(tmp_path)
    assert {document.path for document in found.documents} <= set(names)


def test_splits_that_could_be_meant_are_named(tmp_path):
    for name in ("train_sft", "train_gen"):
        pq.write_table(table(), tmp_path / f"{name}-0.parquet")
    with pytest.raises(InputError, match=r"has no split 'train', only train_gen, train_sft.*#train_gen"):
        read_dataset(tmp_path)
    assert questions(tmp_path / "x".replace("x", "../" + tmp_path.name + "#train_sft")) == ASKED


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"instruction": "a\\ud83d", "output": "b"}\n',
            r"line 1 has the escape \\ud83d, half of a surrogate",
        ),
        ("a.json", b'[{"instruction": "a", "output": "\\uDC00"}]', "record 0 has the escape"),
        ("a.csv", b"instruction,output\nQ?,A.,more\n", "line 2 has 3 cells where the header names 2 columns"),
        ("a.csv", b'instruction,output\n"Q?,A.\n', "line 2 is not valid CSV"),
        ("a.csv", b"instruction,instruction\n", "names the column 'instruction' twice in line 1"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"instruction,output\n", "has no records"),
        ("a.csv", b"instruction,output\nQ?,\n", "line 2 is missing 'output'"),
        ("a.csv", b"instruction,output\nQ\xff?,A.\n", "not text in UTF-8"),
        ("a.jsonl", b'{"instruction": "Q\xff", "output": "A"}\n', "not text in UTF-8"),
        ("a.jsonl.gz", gzip.compress(LINES)[:-12], "can't be decompressed"),
        ("a.jsonl.gz", LINES, "can't be decompressed"),
        ("a.jsonl.zst", zstandard.compress(LINES)[:-5], "can't be decompressed: it ends early"),
        ("a.parquet", b"PAR1 nothing PAR1", "can't be read as Parquet"),
        ("a.arrow", b"nothing", "can't be read as Arrow"),
        ("a.parquet.gz", b"", "is no dataset"),
        ("a.pdf", b"", "is no dataset"),
        ("a.json", b'{"data": [], "rows": []}', "holds an object, not a list"),
    ],
)
def test_what_can_not_be_read_is_named_by_file_and_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path / name)


def test_a_bad_row_of_a_shard_is_named_by_row_and_shard(tmp_path):
    pq.write_table(table(), tmp_path / "part-0.parquet")
    pq.write_table(pa.Table.from_pylist([RECORDS[0], {"instruction": "Q?"}]), tmp_path / "part-1.parquet")
    with pytest.raises(InputError, match=r"row 2 of part-1\.parquet is missing 'output'"):
        read_dataset(tmp_path)


def test_a_cell_that_is_empty_is_missing_from_its_row_and_not_from_the_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("question,answer,weight\nQ?,A.,1\nNobody?,,1\n")
    with pytest.raises(InputError, match="line 3 is missing 'answer'"):
        read_dataset(path)
