"""Files of rows and logs that are damaged, disguised or made to do harm: each is named, and the others are used."""

import gzip
import io
import json
import os
import socket
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build.existing_rows import read_source_rows
from llamafarm_ray.data.conversations import batches
from llamafarm_ray.errors import InputError

MIB = 2**20
ROW = {"question": "When does the mill open?", "answer": "At eight."}
LINE = f"{json.dumps(ROW)}\n".encode()


def parquet():
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([ROW] * 100), buffer)
    return buffer.getvalue()


def arrow():
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist([ROW] * 100)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("a.jsonl")
        info.size = 5000
        archive.addfile(info, io.BytesIO(b" " * 5000))
    return buffer.getvalue()


def encrypted_zip():
    data = bytearray(zipped(**{"a.jsonl": LINE}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    return bytes(data)


NESTED = zipped(**{"b.zip": zipped(**{"c.zip": zipped(**{"a.jsonl": LINE})})})
PARQUET, ARROW = parquet(), arrow()
SLACK = {"channels.json": "[]", "users.json": "[]"}
DEEP = b'{"a":' * 900 + b"1" + b"}" * 900 + b"\n"

CONTENTS = {
    "empty.jsonl": b"",
    "zeros.jsonl": bytes(5000),
    "cut.jsonl": LINE[:-9],
    "latin.jsonl": b'{"question": "Caf\xe9?", "answer": "Ja."}\n',
    "half_utf16.jsonl": LINE.decode().encode("utf-16")[:-1],
    "deep.jsonl": b"[" * 100_000,
    "less_deep.jsonl": DEEP,
    "long_line.jsonl": b'{"question": "' + b"x" * (16 * MIB),
    "surrogate.jsonl": b'{"question": "\\ud83d", "answer": "b"}\n',
    "digits.jsonl": b"9" * 10_000 + b"\n",
    "nan.jsonl": b"NaN\n",
    "lists.jsonl": b"[1, 2]\n[3]\n",
    "program.jsonl": b"\x7fELF\x02\x01\x01" + bytes(range(256)),
    "no_chat.jsonl": b'{"level": "info"}\n',
    "request.jsonl": b'{"request": {"messages": 5, "tools": 1}, "response": {"choices": [{"message": 7}]}}\n',
    "feedback.jsonl": b'{"messages": [7], "answer": "x", "rating": {}}\n',
    "ticket.jsonl": b'{"comments": [1, {"body": {}, "created_at": []}], "requester_id": [], "ticket": {}}\n',
    "empty.json": b"",
    "object.json": b'{"a": 1}',
    "number.json": b"7",
    "cut.json": b"[" + LINE,
    "deep.json": b"[" * 100_000,
    "empty.csv": b"",
    "quote.csv": b'question,answer\n"Open?,Yes\n',
    "twice.csv": b"question,question\na,b\n",
    "zeros.csv": bytes(500),
    "text.parquet": b"PAR1 nothing PAR1",
    "cut.parquet": PARQUET[: len(PARQUET) // 2],
    "damaged.parquet": PARQUET[:-60] + b"\xff" * 52 + PARQUET[-8:],
    "text.arrow": b"nothing",
    "cut.arrow": ARROW[: len(ARROW) // 2],
    "zeros.feather": bytes(500),
    "plain.jsonl.gz": LINE,
    "cut.jsonl.gz": gzip.compress(LINE)[:-12],
    "plain.jsonl.zst": LINE,
    "cut.jsonl.zst": zstandard.compress(LINE)[:-5],
    "bomb.jsonl.zst": zstandard.compress(bytes(400 * MIB)),
    "text.zip": b"PK no more",
    "empty.zip": zipped(),
    "encrypted.zip": encrypted_zip(),
    "nested.zip": NESTED,
    "cut.tar": tarred()[:700],
    "slack.zip": zipped(**{**SLACK, "help/2026-01-01.json": "{"}),
    "new\nline.jsonl": b"?\n",
    os.fsdecode(b"not\xffutf8.jsonl"): b"?\n",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder of hostile files between two good ones, and the names that a report has for the hostile ones."""
    folder = tmp_path_factory.mktemp("rows")
    for name, data in {**CONTENTS, "a_good.jsonl": LINE, "z_good.jsonl": LINE.replace(b"mill", b"shop")}.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "socket.jsonl"))
    targets = {"device.jsonl": "/dev/zero", "loop.jsonl": "loop.jsonl", "gone.jsonl": "nothing", "loop_folder": "."}
    for name, target in {**targets, "out.jsonl": "/etc/passwd"}.items():
        (folder / name).symlink_to(target)
    names = {*CONTENTS, *targets, "pipe.jsonl", "socket.jsonl", "out.jsonl"}
    return folder, {name.replace("\n", "\\x0a").replace("\udcff", "\\xff") for name in names}


def settings(**source):
    return DatasetConfig.model_validate({"source": {"type": "conversation_logs", "file_memory_mb": 256, **source}})


def test_a_build_goes_on_past_hostile_files_of_rows_and_names_each(hostile):
    folder, names = hostile
    found = read_source_rows(str(folder), settings())
    assert sorted(found.harvest.digests) == ["a_good.jsonl", "z_good.jsonl"]
    told = {skipped.path: skipped.reason for skipped in found.harvest.skipped}
    assert {path.partition("!/")[0].split("/")[0] for path in told} == names
    assert all(told.values())
    assert told["bomb.jsonl.zst"] == "its reader ran out of memory (dataset.source.file_memory_mb)."
    assert told["pipe.jsonl"] == "it is no regular file."
    assert told["slack.zip/help/2026-01-01.json"].startswith("it can't be read as JSON")
    assert told["less_deep.jsonl"].startswith("none of its 1 records can be used")


def test_strict_stops_at_a_hostile_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINE)
    (tmp_path / "b.json").write_bytes(b"[")
    with pytest.raises(InputError, match=r"b\.json can't be used: it is not valid JSON"):
        read_source_rows(str(tmp_path), settings(strict=True))


def test_the_rows_before_the_damage_are_used_and_a_note_says_so(tmp_path):
    (tmp_path / "a.csv").write_text('question,answer\nOpen?,At eight.\n"Closed?,At ten.\n')
    (tmp_path / "b.jsonl").write_bytes(b"\xff\n")
    (tmp_path / "c.jsonl").write_bytes(b"".join(LINE.replace(b"mill", b"mill %d" % n) for n in range(600)) + b"\xff")
    found = read_source_rows(str(tmp_path), settings())
    assert set(found.harvest.digests) == {"a.csv", "c.jsonl"}
    assert [skipped.path for skipped in found.harvest.skipped] == ["b.jsonl"]
    (note,) = found.harvest.notes["c.jsonl"]
    assert note.endswith(
        "and no more of it: it is not text in UTF-8: line 601 has the byte 0xff at a wrong place. Save it as UTF-8."
    )
    with pytest.raises(InputError, match=r"line 3 of a\.csv is not valid CSV"):
        read_source_rows(str(tmp_path / "a.csv"), settings(strict=True))


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path, monkeypatch):
    def growing(file):
        yield "line 1", ROW
        with file.open("ab") as more:
            more.write(LINE)

    monkeypatch.setattr(batches, "read_file", growing)
    (tmp_path / "a.jsonl").write_bytes(LINE)
    found = read_source_rows(str(tmp_path), settings())
    assert found.harvest.notes["a.jsonl"][0].endswith("it changed while it was read. Build again.")
