"""Files are fetched in pieces from servers that fail in every way, gone on with after a kill, and checked."""

import dataclasses
import hashlib
import json
import os
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from file_server import Fault, file_server

from llamafarm_ray.errors import AccessDeniedError, IntegrityError, NotFoundError, StorageError
from llamafarm_ray.storage.downloads.credentials import Credentials
from llamafarm_ray.storage.downloads.fetch import fetch
from llamafarm_ray.storage.downloads.remote import Answer, Patience, Wanted
from llamafarm_ray.storage.downloads.sidecar import Sidecar
from llamafarm_ray.storage.downloads.web import Web, WebFile
from llamafarm_ray.types import Digest

PIECE = 1000
DATA = bytes(n * 31 % 251 for n in range(10 * PIECE + 17))
QUICK = Patience(connect_s=10, read_s=30, attempts=4, first_wait_s=0.001, max_wait_s=0.01)


@pytest.fixture
def server():
    with file_server() as files:
        files.files["/model"] = DATA
        yield files


@pytest.fixture
def web():
    with Web(Credentials({}), QUICK) as made:
        yield made


class Fetch:
    """Fetches one file into a folder."""

    def __init__(self, server, web, folder):
        self._server, self._web, self.folder = server, web, folder
        self.notes = []
        self.progress = []

    def __call__(self, path="/model", connections=4, patience=QUICK, piece_bytes=PIECE, **known):
        wanted = Wanted("model", WebFile(self._web, self._server.url + path), **known)
        return fetch(
            [wanted],
            self.folder,
            patience=patience,
            note=self.notes.append,
            progress=lambda done, total: self.progress.append((done, total)),
            connections=connections,
            piece_bytes=piece_bytes,
        )

    def bytes(self):
        return (self.folder / "model").read_bytes()

    def left(self):
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def get(server, web, tmp_path):
    (tmp_path / "files").mkdir()
    return Fetch(server, web, tmp_path / "files")


def once(fault, path="/model", number=0):
    """Fail at one request for a path."""
    return lambda asked: fault if asked.path == path and asked.number == number else None


def test_a_file_comes_in_pieces_whole_and_checked(get, server):
    (found,) = get(digest=Digest.of(DATA))
    assert (get.bytes(), found.digest, found.size_bytes) == (DATA, Digest.of(DATA), len(DATA))
    assert found.validator == server.etag("/model")
    assert sorted(server.ranges()) == [(n * PIECE, (n + 1) * PIECE - 1) for n in range(10)] + [
        (10 * PIECE, 11 * PIECE - 1) if (10 * PIECE, 11 * PIECE - 1) in server.ranges() else (10 * PIECE, len(DATA) - 1)
    ]
    assert get.left() == ["model"], "nothing is left over"
    assert get.progress[-1] == (len(DATA), len(DATA))
    assert get.notes == []


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 2 * PIECE])
def test_files_of_any_size(get, server, size):
    server.files["/model"] = DATA[:size]
    (found,) = get()
    assert get.bytes() == DATA[:size]
    assert found.digest == Digest.of(DATA[:size])


def test_the_sidecar_is_written_before_the_first_byte(get, server, tmp_path):
    seen = []

    def look(asked):
        if asked.range[0] >= PIECE and not seen:
            seen.append(json.loads((get.folder / ".model.pieces").read_text().splitlines()[0]))

    server.fault = look
    get(connections=1)
    assert seen[0] == {
        "address": f"{server.url}/model",
        "validator": server.etag("/model"),
        "size_bytes": len(DATA),
        "digest": "",
        "piece_bytes": PIECE,
        "format": 2,
    }


def interrupted(get, server, after=4):
    """Leave what a process leaves that ends after some pieces."""
    server.fault = lambda _: Fault(status=403) if len(server.asked) > after else None
    with pytest.raises(AccessDeniedError):
        get(connections=1)
    server.fault = lambda _: None
    server.asked.clear()


def test_what_is_finished_is_not_fetched_again(get, server):
    interrupted(get, server)
    get(digest=Digest.of(DATA))
    assert get.bytes() == DATA
    assert len(server.asked) == 7, "four of eleven pieces were there"


def test_a_piece_under_way_goes_on_where_it_was(get, server):
    """Eight pieces are half there when the process ends: together, no more than one comes again."""
    piece, half = 160 * 1024, 80 * 1024
    data = os.urandom(8 * piece)
    server.files["/model"] = data
    server.fault = lambda _: Fault(cut_after=half)
    with pytest.raises(StorageError, match="in a row"):
        get(connections=8, piece_bytes=piece, patience=dataclasses.replace(QUICK, attempts=1))
    sidecar = Sidecar.read(get.folder / ".model.pieces")
    kept = sum(num_bytes for num_bytes, _ in sidecar.begun.values())
    assert kept > 0, "what was there is noted"
    server.fault = lambda _: None
    server.asked.clear()
    get.progress.clear()
    get(connections=8, piece_bytes=piece, digest=Digest.of(data))
    assert get.bytes() == data
    asked = sum(end + 1 - begin for begin, end in server.ranges())
    assert asked == len(data) - kept
    assert get.progress[-1] == (len(data), len(data))


def test_a_file_of_one_piece_under_way_begins_again_where_the_server_ignores_ranges(get, server):
    piece = 160 * 1024
    data = os.urandom(piece - 9)
    server.files["/model"] = data
    server.fault = lambda _: Fault(cut_after=piece // 2, no_ranges=True)
    with pytest.raises(StorageError, match="in a row"):
        get(piece_bytes=piece, patience=dataclasses.replace(QUICK, attempts=1))
    assert Sidecar.read(get.folder / ".model.pieces").begun, "what was there is noted"
    server.fault = lambda _: Fault(no_ranges=True)
    get(piece_bytes=piece)
    assert get.bytes() == data


def test_bytes_of_a_piece_under_way_that_were_damaged_are_fetched_again(get, server):
    server.fault = lambda _: Fault(cut_after=PIECE - 7)
    with pytest.raises(StorageError):
        get(connections=1, patience=dataclasses.replace(QUICK, attempts=1))
    with (get.folder / ".model.pieces").open("ab") as sidecar:
        sidecar.write(b'{"piece": 0, "bytes": 5, "xxh3": "00"}\n{"piece": 3, "bytes": 999999, "xxh3": "00"}\n')
    server.fault = lambda _: None
    get(digest=Digest.of(DATA))
    assert get.bytes() == DATA


def test_a_piece_that_was_damaged_on_disk_is_fetched_again(get, server):
    interrupted(get, server)
    with (get.folder / ".model.part").open("r+b") as part:
        part.seek(PIECE + 5)
        part.write(b"\0\0\0\0\0")
    get()
    assert get.bytes() == DATA
    assert len(server.asked) == 8


@pytest.mark.parametrize("rest", [b"", b'{"piece": 4, "xx', b"\xff\xfe", b'{"piece": 4, "xxh3": "00"}\n'])
def test_a_sidecar_that_was_cut_off_is_used_as_far_as_it_goes(get, server, rest):
    interrupted(get, server)
    with (get.folder / ".model.pieces").open("ab") as sidecar:
        sidecar.write(rest)
    get()
    assert get.bytes() == DATA
    assert len(server.asked) == 7


@pytest.mark.parametrize("text", ["", "{}\n", "[1]\n", '{"address": 1}\n', "no json\n"])
def test_a_sidecar_that_is_none_is_not_used(get, server, text):
    interrupted(get, server)
    (get.folder / ".model.pieces").write_text(text)
    get()
    assert get.bytes() == DATA
    assert len(server.asked) == 11


def test_a_file_that_changed_since_is_started_over_and_said_so(get, server):
    interrupted(get, server)
    server.files["/model"] = DATA[::-1]
    get()
    assert get.bytes() == DATA[::-1]
    assert "changed" in get.notes[0]
    assert "starting over" in get.notes[0]


def test_a_file_that_changes_meanwhile_is_started_over(get, server):
    def change(asked):
        if asked.number == 5:
            server.files["/model"] = DATA[::-1]

    server.fault = change
    (found,) = get()
    assert get.bytes() == DATA[::-1]
    assert found.validator == server.etag("/model")
    assert "its ETag was" in get.notes[0]


def test_etags_that_differ_between_servers_of_one_file_don_t_matter_where_its_digest_is_known(get, server):
    server.fault = lambda asked: (
        Fault(headers={"X": "y"}) if server.etags.update({"/model": f'"{asked.number}"'}) else None
    )
    get(digest=Digest.of(DATA))
    assert get.bytes() == DATA
    assert get.notes == []


def test_a_file_that_keeps_changing_is_given_up(get, server):
    def change(asked):
        server.files["/model"] = bytes([asked.number % 256]) * len(DATA)

    server.fault = change
    with pytest.raises(StorageError, match="keeps changing"):
        get()


def test_a_server_that_ignores_ranges_sends_the_file_once(get, server):
    server.fault = lambda _: Fault(no_ranges=True)
    (found,) = get()
    assert (get.bytes(), found.digest) == (DATA, Digest.of(DATA))
    assert len(server.asked) == 1


def test_a_server_that_ignores_ranges_by_now_starts_at_the_first_byte(get, server):
    interrupted(get, server)
    server.fault = lambda _: Fault(no_ranges=True)
    get()
    assert get.bytes() == DATA
    assert len(server.asked) == 1
    assert "ignores ranges now" in get.notes[0]
    assert get.progress[-1] == (len(DATA), len(DATA))


def test_a_file_whose_size_is_not_told_comes_too(get, server):
    server.fault = lambda _: Fault(chunked=True)
    (found,) = get()
    assert (get.bytes(), found.size_bytes) == (DATA, len(DATA))


@pytest.mark.parametrize("no_ranges", [False, True])
def test_a_connection_that_is_cut_goes_on(get, server, no_ranges):
    server.fault = lambda asked: (
        Fault(cut_after=300, no_ranges=no_ranges)
        if asked.number < 2
        else (Fault(no_ranges=True) if no_ranges else None)
    )
    get()
    assert get.bytes() == DATA
    if not no_ranges:
        assert (300, PIECE - 1) in server.ranges(), "within the piece"


def test_a_body_that_stays_truncated_is_told(get, server):
    server.fault = lambda asked: Fault(cut_after=0) if asked.range[0] >= 3 * PIECE else None
    with pytest.raises(
        StorageError, match=r"/model (cut the connection|ended after 0 of 1000 bytes), 4 times in a row"
    ):
        get()
    server.fault = lambda _: None
    get()
    assert get.bytes() == DATA


def test_a_server_that_says_nothing_any_more_is_asked_again(server, tmp_path):
    server.fault = once(Fault(drip=10))
    impatient = Patience(read_s=0.2, attempts=50, first_wait_s=0.001, max_wait_s=0.001)
    with Web(Credentials({}), impatient) as web:
        get = Fetch(server, web, tmp_path)
        get(patience=impatient)
    assert get.bytes() == DATA


class Crawling:
    """A file whose first answer is a byte a second by a clock of its own."""

    shown = "crawling"

    def __init__(self):
        self.now = 0.0
        self.begins = []

    @contextmanager
    def read(self, begin, _end):
        self.begins.append(begin)
        yield Answer(begin, PIECE, "", self._slowly(begin) if begin == 0 else iter([DATA[begin:PIECE]]))

    def _slowly(self, begin):
        for at in range(begin, PIECE):
            self.now += 1.0
            yield DATA[at : at + 1]


def test_a_connection_that_crawls_is_made_anew_where_it_was(tmp_path, monkeypatch):
    remote = Crawling()
    monkeypatch.setattr("llamafarm_ray.storage.downloads.transfer.time", SimpleNamespace(monotonic=lambda: remote.now))
    patience = Patience(slow_s=30, slow_bytes_per_s=10, first_wait_s=0.001)
    fetch([Wanted("model", remote)], tmp_path, patience=patience, piece_bytes=PIECE)
    assert remote.begins == [0, 30]
    assert (tmp_path / "model").read_bytes() == DATA[:PIECE]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_is_busy_is_asked_again(get, server, status):
    server.fault = once(Fault(status=status, headers={"Retry-After": "0"}), number=1)
    get()
    assert get.bytes() == DATA


def test_a_server_that_stays_busy_is_given_up_by_name(get, server):
    server.fault = lambda _: Fault(status=503)
    with pytest.raises(StorageError, match="/model answered 503, 4 times in a row") as caught:
        get()
    assert len(server.asked) == 4
    assert "what is finished is kept" in caught.value.hint


@pytest.mark.parametrize(("status", "kind"), [(401, AccessDeniedError), (403, AccessDeniedError), (404, NotFoundError)])
def test_a_refusal_is_not_asked_again(get, server, status, kind):
    server.fault = lambda _: Fault(status=status)
    with pytest.raises(kind, match=str(status)):
        get()
    assert len(server.asked) == 1


def test_a_range_that_can_not_be_is_a_changed_file(get, server):
    interrupted(get, server)
    server.files["/model"] = DATA[:PIECE]
    server.etags["/model"] = (
        f'"{hashlib.md5(DATA, usedforsecurity=False).hexdigest()}"'  # 416 carries no ETag, and this one did not change
    )
    get()
    assert get.bytes() == DATA[:PIECE]
    assert "its size was 10017 and is 1000" in get.notes[0]


def test_other_bytes_than_were_announced_are_refused(get, server):
    with pytest.raises(IntegrityError, match=f"{Digest.of(b'other')}, and its bytes have {Digest.of(DATA)}"):
        get(digest=Digest.of(b"other"))
    assert get.left() == []
    git = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA, usedforsecurity=False).hexdigest()
    get(git_digest=git)
    (get.folder / "model").unlink()
    with pytest.raises(IntegrityError, match=f"git:{git}"):
        get(git_digest="0" * 40)


def test_a_size_that_differs_from_the_announced_one_is_refused(get):
    with pytest.raises(StorageError, match="has 10017 bytes, and 5 were announced"):
        get(size_bytes=5)


def test_a_full_disk_is_told_before_the_first_byte(get, server):
    with pytest.raises(StorageError, match=r"are to be fetched, and .* free"):
        get(size_bytes=2**60)
    assert server.asked == []


def test_a_disk_that_becomes_full_leaves_nothing(get, monkeypatch):
    def full(_descriptor, _data, _at):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        get()
    assert "LLAMAFARM_CACHE" in caught.value.hint
    assert get.left() == []


def test_a_compressed_answer_is_refused(get, server):
    server.fault = lambda _: Fault(headers={"Content-Encoding": "gzip"})
    with pytest.raises(StorageError, match=r"compressed \(gzip\)"):
        get()


def test_a_server_that_is_not_there_is_told(get, server):
    server.url = "http://127.0.0.1:9"  # nobody listens to discard
    with pytest.raises(StorageError, match="can't be reached, 4 times in a row"):
        get()


def test_several_files_come_at_once_and_optional_ones_may_be_missing(server, web, tmp_path):
    server.files["/small"] = b"{}"
    wanted = [
        Wanted("a/model", WebFile(web, f"{server.url}/model")),
        Wanted("template", WebFile(web, f"{server.url}/none"), is_optional=True),
        Wanted("config.json", WebFile(web, f"{server.url}/small")),
    ]
    found = fetch(wanted, tmp_path, patience=QUICK, piece_bytes=PIECE)
    assert [one.path for one in found] == ["a/model", "config.json"]
    assert (tmp_path / "a" / "model").read_bytes() == DATA
    assert (tmp_path / "config.json").read_bytes() == b"{}"


def test_a_call_that_fails_ends_its_threads(get, server):
    server.fault = lambda asked: Fault(status=404) if asked.number > 5 else None
    with pytest.raises(NotFoundError):
        get()
    assert not [thread for thread in threading.enumerate() if "_work" in thread.name]
