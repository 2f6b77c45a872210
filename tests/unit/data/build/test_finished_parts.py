"""Finished parts of a build are found again by what decides them, and by nothing else."""

import zipfile

import pyarrow as pa
import pytest

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build import documents, finished, stages
from llamafarm_ray.data.build.documents import files_table, process_documents
from llamafarm_ray.data.build.finished import FinishedParts
from llamafarm_ray.data.build.stages import document_stage
from llamafarm_ray.data.build.tasks import tasks_of
from llamafarm_ray.data.sources import SourceFile, Sources
from llamafarm_ray.errors import InputError

TABLE = pa.table({"text": ["one", "two"]})


@pytest.fixture
def parts(tmp_path):
    return FinishedParts(tmp_path / "out")


def test_a_part_is_found_by_its_values(parts):
    parts.save(TABLE, "documents", [["a.md", 1]])
    assert parts.load("documents", [["a.md", 1]]).equals(TABLE)
    assert parts.load("documents", [["a.md", 2]]) is None
    assert [path.suffix for path in parts.folder.iterdir()] == [".parquet"]


def test_parts_of_other_code_are_not_found(parts, monkeypatch):
    parts.save(TABLE, "x")
    monkeypatch.setattr(finished, "code_digest", lambda: "another")
    assert parts.load("x") is None


def test_a_damaged_part_is_made_again(parts):
    parts.save(TABLE, "x")
    (path,) = parts.folder.iterdir()
    path.write_bytes(path.read_bytes()[:50])
    assert parts.load("x") is None
    parts.save(TABLE, "x")
    assert parts.load("x").equals(TABLE)


def test_a_part_of_several_tables_appears_when_it_is_finished(parts):
    with parts.open(TABLE.schema, "x") as part:
        for _ in range(3):
            part.add(TABLE)
            assert parts.stream(TABLE.schema, "x") is None
        part.finish()
    assert [table.equals(TABLE) for table in parts.stream(TABLE.schema, "x")] == [True] * 3
    assert parts.stream(pa.schema([("other", pa.string())]), "x") is None
    with parts.open(TABLE.schema, "y") as part:
        part.add(TABLE)
    assert parts.stream(TABLE.schema, "y") is None
    assert len(list(parts.folder.iterdir())) == 1


def test_of_a_part_that_is_damaged_at_its_end_nothing_is_used(parts):
    large = pa.table({"text": [str(number) * 20 for number in range(50_000)]})
    with parts.open(large.schema, "x") as part:
        part.add(large)
        part.add(large)
        part.finish()
    (path,) = parts.folder.iterdir()
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data[half : half + 5000] = bytes(5000)
    path.write_bytes(bytes(data))
    assert parts.stream(large.schema, "x") is None


def test_cleared_parts_are_gone_and_clearing_nothing_is_fine(parts):
    parts.clear()
    parts.save(TABLE, "x")
    parts.clear()
    assert not parts.folder.exists()


def test_tasks_hold_up_to_200_files_or_4_mib(tmp_path):
    def file(name, size):
        path = tmp_path / name
        path.write_bytes(b"x" * size)
        return SourceFile(name, bytes(path))

    small = [file(f"{number:03}", 10) for number in range(450)]
    assert [len(task) for task in tasks_of(small)] == [200, 200, 50]
    large = [file(f"large-{number}", 3 * 1024 * 1024) for number in range(3)]
    assert [len(task) for task in tasks_of(large)] == [1, 1, 1]
    assert [one for task in tasks_of(small + large) for one in task] == small + large
    assert [len(task) for task in tasks_of(small, 4)] == [113, 113, 113, 111]
    remote = [SourceFile(f"{number:03}", f"s3://bucket/{number:03}".encode()) for number in range(20)]
    assert [len(task) for task in tasks_of(remote)] == [16, 4]
    assert tasks_of([]) == tasks_of([], 3) == []


@pytest.fixture
def in_process(monkeypatch):
    """Tasks run in this process, and are listed."""
    tasks = []

    here = stages._processed_here

    def processed(some, config, *, by_rules):
        tasks.extend([file.path for file in task] for task in some)
        return here(some, config, by_rules=by_rules)

    monkeypatch.setattr(stages, "_processed_here", processed)
    monkeypatch.setattr(stages, "_processed_by_ray", processed)
    return tasks


def read(files, parts, *, strict=False):
    config = DatasetConfig.model_validate({"source": {"strict": strict}})
    sources = Sources(files=files)
    return document_stage(
        sources, config, parts, by_rules=True, num_partitions=None, tell=lambda _: None, on_use=lambda _: None
    )


def test_a_file_that_did_not_change_is_read_once(tmp_path, parts, in_process):
    path = tmp_path / "a.md"
    path.write_text("The mill opens at 09:00.")
    files = [SourceFile("a.md", bytes(path))]
    assert read(files, parts).digests == read(files, parts).digests
    assert in_process == [["a.md"]]


def test_a_long_document_and_an_archive_come_back_in_tables_of_bounded_size(tmp_path, parts, in_process, monkeypatch):
    monkeypatch.setattr(documents, "_TABLE_BYTES", 2000)
    monkeypatch.setattr(documents, "_ROWS_OF_PASSAGES", 4)
    path = tmp_path / "a.zip"
    long = "\n\n".join(f"# Mill {number}\n\nThe mill of village {number} opens at 09:00." for number in range(30))
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a.md", "b.md"):
            archive.writestr(name, long)
    files = [SourceFile("a.zip", bytes(path))]
    config = DatasetConfig()
    tables = list(process_documents(files_table(files), config=config, by_rules=True))
    assert len(tables) > 5
    assert max(len(row["examples"]) for table in tables for row in table.to_pylist()) == 4
    assert [row["is_last"] for table in tables for row in table.to_pylist()].count(True) == 1
    found = [read(files, parts) for _ in range(2)]
    assert in_process == [["a.zip"]]
    for harvest in found:
        assert sorted(harvest.digests) == ["a.zip!/a.md", "a.zip!/b.md"]
        assert harvest.num_facts == {"a.zip!/a.md": 30, "a.zip!/b.md": 30}
        assert harvest.ledger.counts("passages").rows_out == 60
        assert sum(table.num_rows for table in harvest.rows) == harvest.ledger.counts("limit").rows_out > 0


def test_a_file_behind_a_uri_is_read_again_as_it_may_have_changed(tmp_path, parts, in_process):
    path = tmp_path / "a.md"
    files = [SourceFile("a.md", f"local://{path}".encode())]
    found = []
    for hour in ("09:00", "10:00"):
        path.write_text(f"The mill opens at {hour}.")
        found.append(read(files, parts).digests["a.md"])
    assert found[0] != found[1]
    assert not parts.folder.exists()


def test_a_strict_build_stops_at_a_broken_file_also_when_it_goes_on(tmp_path, parts, in_process):
    path = tmp_path / "a.pdf"
    path.write_bytes(b"no PDF")
    for _ in range(2):
        with pytest.raises(InputError, match=r"a\.pdf can't be used: it is not a valid PDF"):
            read([SourceFile("a.pdf", bytes(path))], parts, strict=True)
    assert in_process == [["a.pdf"]]
    assert len(read([SourceFile("a.pdf", bytes(path))], parts).skipped) == 1
