"""Finished parts of a build are found again by what decides them, and by nothing else."""

import pyarrow as pa
import pytest

from llamafarm_ray.data import finished
from llamafarm_ray.data.finished import FinishedParts
from llamafarm_ray.data.sources import SourceFile
from llamafarm_ray.data.stages import tasks_of

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
    assert tasks_of([]) == tasks_of([], 3) == []
