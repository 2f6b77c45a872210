"""A location does the same in a folder and in a bucket, and says what failed."""

import datetime as dt
import os
import pickle
import threading
from pathlib import Path

import pytest
from process_tools import pool

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage import Location, ranges
from llamafarm_ray.storage import location as location_module
from llamafarm_ray.types import Digest


def race(write, numbers):
    """Run ``write`` in threads that start together; the numbers of those that won."""
    won, gate = [], threading.Barrier(len(numbers))

    def run(number):
        gate.wait()
        try:
            write(number)
            won.append(number)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=run, args=(number,)) for number in numbers]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return won


def create_in_process(uri, number):
    try:
        Location(uri).create("log/1", str(number).encode() * 1000)
    except FileExistsError:
        return False
    return True


def test_what_is_written_is_read(location):
    location.write("a/b", b"1")
    location.write("a/b", b"2")
    assert location.read("a/b") == b"2"
    assert location.exists("a/b")
    assert location.size("a/b") == 1
    assert location.names("a") == ["b"]


def test_what_is_missing_is_told_so(location):
    location.write("folder/file", b"1")
    with pytest.raises(FileNotFoundError):
        location.read("x")
    with pytest.raises(FileNotFoundError):
        next(location.stream("x"))
    assert not location.exists("x")
    assert location.size("x") is None
    assert location.size("folder") is None
    assert location.names("x") == []
    assert list(location.walk("x")) == []
    location.remove("x")


def test_several_are_read_in_the_order_asked_for(location):
    for number in range(20):
        location.write(f"log/{number}", str(number).encode())
    names = [f"log/{number}" for number in (7, 99, 0, 7, 19)]
    assert location.read_many(names) == [b"7", None, b"0", b"7", b"19"]
    assert location.read_many([]) == []


@pytest.mark.parametrize("start", [0, 1, 999, 1000, 2500, 3000])
def test_a_stream_begins_where_it_is_told(location, monkeypatch, start):
    monkeypatch.setattr(ranges, "PIECE_BYTES", 1000)
    monkeypatch.setattr(ranges, "_RANGE_BYTES", 400)  # nine of them, four at once
    data = bytes(range(250)) * 12
    location.write("x", data)
    pieces = list(location.stream("x", start))
    assert b"".join(pieces) == data[start:]
    assert all(len(piece) <= 1000 for piece in pieces)


def test_an_empty_file_is_a_file(location):
    location.create("x", b"")
    assert location.size("x") == 0
    assert location.read("x") == b""
    assert list(location.stream("x")) == []


def test_a_walk_finds_every_file_with_its_size_and_time(location):
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=2)
    for name in ("blobs/a/1", "blobs/b/22", "blobs/.hidden", "other/x"):
        location.write(name, name.encode())
    found = {file.name: file for file in location.walk("blobs")}
    assert {name: file.size_bytes for name, file in found.items()} == {
        name: len(name) for name in ("blobs/a/1", "blobs/b/22", "blobs/.hidden")
    }
    assert all(before < file.modified < before + dt.timedelta(hours=1) for file in found.values())
    assert all(file.modified.tzinfo == dt.UTC for file in found.values())


def test_what_others_write_is_seen_at_once(location):
    other = pickle.loads(pickle.dumps(location))  # noqa: S301
    assert other.names("log") == []
    assert not other.exists("log/1")
    location.create("log/1", b"1")
    assert other.names("log") == ["1"]
    assert other.size("log/1") == 1
    location.create("log/2", b"2")
    assert other.names("log") == ["1", "2"]
    location.remove("log/1")
    assert other.names("log") == ["2"]
    assert not other.exists("log/1")


def test_a_child_is_the_folder_below(location):
    location.child("a").child("b").write("c", b"1")
    assert location.read("a/b/c") == b"1"
    assert location.child("a").uri == f"{location.uri}/a"


def test_of_eight_racing_threads_exactly_one_creates(location):
    won = race(lambda number: location.create("log/1", str(number).encode() * 1000), range(8))
    assert len(won) == 1
    assert location.read("log/1") == str(won[0]).encode() * 1000
    assert location.names("log") == ["1"]


def test_of_racing_processes_exactly_one_creates(location):
    with pool(4) as processes:
        won = list(processes.map(create_in_process, [location.uri] * 8, range(8)))
    assert won.count(True) == 1
    assert location.read("log/1") == str(won.index(True)).encode() * 1000
    assert len(list(location.walk("log"))) == 1


def test_an_upload_is_checked_while_it_is_copied(location, tmp_path):
    source = tmp_path / "x"
    source.write_bytes(b"new")
    with pytest.raises(InputError, match="changed while it was read"):
        location.upload(source, "blob", Digest.of(b"old"))
    assert location.size("blob") is None
    location.upload(source, "blob", Digest.of(b"new"))
    assert location.read("blob") == b"new"


@pytest.mark.parametrize("sound", [True, False])
def test_a_large_upload_goes_in_parts_and_appears_whole_or_not_at_all(
    location, s3_server, tmp_path, monkeypatch, sound
):
    monkeypatch.setattr(location_module, "_PART_BYTES", 5 * 2**20)
    data = os.urandom(2**20) * 12
    source = tmp_path / "x"
    source.write_bytes(data)
    if sound:
        location.upload(source, "deep/er/blob", Digest.of(data))
        assert Digest.of(location.read("deep/er/blob")) == Digest.of(data)
    else:
        with pytest.raises(InputError, match="changed"):
            location.upload(source, "deep/er/blob", Digest.of(b"other"))
        assert list(location.walk("deep")) == []
        if not location.is_local:
            assert s3_server.list_multipart_uploads(location.root.split("/")[0]) == []


def test_a_local_write_is_synced_with_the_folders_made_for_it(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def record(descriptor):
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    Location(tmp_path).create("a/b/c", b"1")
    assert synced[:2] == [str(tmp_path), str(tmp_path / "a")]
    assert synced[2].startswith(str(tmp_path / "a" / "b" / "."))
    assert synced[3:] == [str(tmp_path / "a" / "b")]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../x", "a//x", "", "a\0b"])
def test_a_location_stays_inside_itself(tmp_path, name):
    with pytest.raises(InputError):
        Location(tmp_path).create(name, b"x")


def test_a_location_works_the_same_on_another_file_system():
    home = Location("memory://bucket/home")
    home.create("a/b", b"1")
    with pytest.raises(FileExistsError):
        home.create("a/b", b"2")
    assert home.read("a/b") == b"1"
    assert b"".join(home.stream("a/b")) == b"1"
    assert home.names("a") == ["b"]
    assert [file.name for file in home.walk("a")] == ["a/b"]
    assert home.names("none") == []
    home.remove("a/b")
    assert not home.exists("a/b")


@pytest.mark.parametrize("name", ["br[1]k", "q?m", "st*r", "a::b", "a:b", "100%", "#1"])
def test_a_folder_may_have_any_name(tmp_path, name):
    (tmp_path / "br1k").mkdir()
    home = Location(tmp_path / name)
    home.create("log/1", b"1")
    home.write("log/2", b"2")
    assert home.read_many(["log/1", "log/2", "log/3"]) == [b"1", b"2", None]
    assert home.names("log") == ["1", "2"]
    assert sorted(file.name for file in home.walk()) == ["log/1", "log/2"]
    home.download("log/1", tmp_path / "copy")
    assert (tmp_path / name / "log" / "1").read_bytes() == (tmp_path / "copy").read_bytes() == b"1"
    assert pickle.loads(pickle.dumps(home)).read("log/2") == home.child("log").read("2") == b"2"  # noqa: S301


@pytest.mark.parametrize("uri", ["memory://br[1]k", "memory://b/q?m", "memory://st*r", "simplecache::memory://b"])
def test_a_uri_that_fsspec_would_read_as_something_else_is_refused(uri):
    with pytest.raises(InputError, match=r"in it, which fsspec reads as a pattern|names several file systems"):
        Location(uri)


def test_a_relative_location_is_the_same_folder_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Location("home").uri == str(tmp_path / "home")


def test_a_bucket_is_understood():
    assert Location("s3://bucket/home").uri == "s3://bucket/home"


def test_an_unknown_protocol_is_the_users_mistake():
    with pytest.raises(InputError, match="nosuch"):
        Location("nosuch://x/y")
