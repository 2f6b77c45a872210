"""What fails at a folder or a bucket is a storage error that says what to do."""

import contextlib
import errno
import os
import pickle
import socket
import threading

import pytest
from http_server import QuietHandler, http_server

from llamafarm_ray.errors import StorageError
from llamafarm_ray.storage import Location, opening


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

    class Away(QuietHandler):
        def do_PUT(self):
            asked.append(self.path)
            self.read_body()
            self.reply(503 if len(asked) <= 6 else 200)

    with http_server(Away) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        location = Location("s3://bucket/kept", is_patient=is_patient)
        with contextlib.nullcontext() if is_patient else pytest.raises(StorageError, match="can't be written"):
            location.write("a", b"checkpoint")
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
