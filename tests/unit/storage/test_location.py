"""A location does the same in a folder and in a bucket, and says what failed."""

import contextlib
import datetime as dt
import errno
import os
import pickle
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from process_tools import pool

from llamafarm_ray.errors import InputError, StorageError
from llamafarm_ray.storage import Location, opening
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
    monkeypatch.setattr(location_module, "PIECE_BYTES", 1000)
    monkeypatch.setattr(location_module, "_RANGE_BYTES", 400)  # nine of them, four at once
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


def test_a_missing_source_is_a_storage_error(location, tmp_path):
    with pytest.raises(StorageError, match="nosuch"):
        location.upload(tmp_path / "nosuch", "blob")


def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    home = Location(tmp_path)
    for write in (home.create, home.write):
        with pytest.raises(StorageError, match="No space left") as caught:
            write("x", b"1")
        assert "space" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


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


def test_a_file_where_a_folder_should_be_is_a_storage_error(tmp_path):
    home = Location(tmp_path)
    home.write("a", b"1")
    with pytest.raises(StorageError):
        home.create("a/b", b"1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="written"):
        Location(tmp_path).create("x", b"x")


OPERATIONS = {
    "read": lambda home, _: home.read("x"),
    "read_many": lambda home, _: home.read_many(["x", "y"]),
    "stream": lambda home, _: next(home.stream("x")),
    "size": lambda home, _: home.size("x"),
    "exists": lambda home, _: home.exists("x"),
    "names": lambda home, _: home.names("x"),
    "walk": lambda home, _: list(home.walk("x")),
    "create": lambda home, _: home.create("x", b"1"),
    "write": lambda home, _: home.write("x", b"1"),
    "upload": lambda home, source: home.upload(source, "x"),
    "download": lambda home, source: home.download("x", source),
    "remove": lambda home, _: home.remove("x"),
}


@pytest.fixture
def unused_port():
    """A port that is bound, so nobody else takes it, but not listened at."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def source(tmp_path):
    made = tmp_path / "source"
    made.write_bytes(b"1")
    return made


def failures(home, source):
    """What each operation raises."""
    raised = {}
    for name, operation in OPERATIONS.items():
        with pytest.raises(StorageError, match="s3://") as caught:
            operation(home, source)
        raised[name] = caught.value
    return raised


@pytest.mark.parametrize("reads", [True, False], ids=["takes-all", "takes-nothing"])
def test_a_store_that_does_not_answer_a_write_is_an_error(monkeypatch, reads):
    monkeypatch.setattr(opening, "_READ_TIMEOUT_S", 1)
    monkeypatch.setattr(opening, "_REQUESTS", 1)
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "test")

    def take(listener, taken):
        while True:
            try:
                taken.append(listener.accept()[0])
            except OSError:
                return
            while reads and taken[-1].recv(65536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = []
        threading.Thread(target=take, args=(listener, taken), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(StorageError, match=r"s3://bucket/kept/a can't be written"):
            Location("s3://bucket/kept").write("a", bytes(30_000_000))
        listener.shutdown(socket.SHUT_RDWR)
        assert taken


@pytest.mark.parametrize("is_patient", [True, False])
def test_a_store_that_is_away_for_a_while_is_waited_for_by_work_that_can_wait(monkeypatch, is_patient):
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "test")
    asked = []

    class Away(BaseHTTPRequestHandler):
        def do_PUT(self):
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(503 if len(asked) <= 6 else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Away) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        location = Location("s3://bucket/kept", is_patient=is_patient)
        with contextlib.nullcontext() if is_patient else pytest.raises(StorageError, match="can't be written"):
            location.write("a", b"checkpoint")
        server.shutdown()
    assert len(asked) == (7 if is_patient else 3)


def test_a_missing_bucket_is_a_storage_error(bucket, source):
    raised = failures(Location("s3://nosuchbucket/home"), source)
    hints = {name: error.hint for name, error in raised.items()}
    assert all("bucket" in hint for name, hint in hints.items() if name != "download"), hints


def test_a_store_nobody_listens_at_is_a_storage_error(bucket, source, monkeypatch, unused_port):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused_port}")
    for error in failures(Location(f"{bucket}/home"), source).values():
        assert "AWS_ENDPOINT_URL" in error.hint
        assert isinstance(pickle.loads(pickle.dumps(error)), StorageError)  # noqa: S301


def test_missing_credentials_are_a_storage_error(bucket, source, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for error in failures(Location(f"{bucket}/home"), source).values():
        assert "AWS_ACCESS_KEY_ID" in error.hint


@pytest.mark.parametrize("code", ["PreconditionFailed", "ConditionalRequestConflict"])
def test_a_store_that_words_a_lost_race_differently_is_understood(bucket, monkeypatch, code):
    """Other stores leave out the failed condition; Amazon's may answer 409, which asks for another try."""
    from botocore.exceptions import ClientError

    home = Location(f"{bucket}/home")
    home.create("x", b"1")
    real, answers = home._fs.pipe_file, [code]

    def pipe_file(*args, **kwargs):
        if answers:
            raise OSError(errno.EINVAL, "no") from ClientError({"Error": {"Code": answers.pop()}}, "PutObject")
        return real(*args, **kwargs)

    monkeypatch.setattr(home._fs, "pipe_file", pipe_file)
    with pytest.raises(FileExistsError):
        home.create("x", b"2")
    assert home.read("x") == b"1"


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
