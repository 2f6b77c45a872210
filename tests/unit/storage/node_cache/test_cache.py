"""A node downloads a version once, hashes it at every pull, and evicts nothing that is in use."""

import datetime as dt
import errno
import os
import signal
import threading
from pathlib import Path

import pytest
from process_tools import barrier, child
from stored_files import cached_blob, files

from llamafarm_ray.errors import IntegrityError, StorageError
from llamafarm_ray.storage import ContentStore, Location, ranges
from llamafarm_ray.storage.node_cache import blob_cache as blob_cache_module

PIECE = 1000


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(ranges, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(blob_cache_module, "PIECE_BYTES", PIECE)


@pytest.fixture
def served(monkeypatch):
    """The bytes that were read of each blob in a home, by its name."""
    counts, real = {}, Location.stream

    def stream(self, name, start=0):
        for piece in real(self, name, start):
            counts[name] = counts.get(name, 0) + len(piece)
            yield piece

    monkeypatch.setattr(Location, "stream", stream)
    return counts


def damage(path):
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def pull_in_process(uri, cache, digest, log, gate):
    real = Location.stream

    def stream(self, name, start=0):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
        yield from real(self, name, start)

    Location.stream = stream
    gate.wait(60)
    ContentStore(Location(uri), cache).pull(digest)


def pull_and_die(uri, cache, digest, after):
    ranges.PIECE_BYTES = PIECE
    real = Location.stream

    def stream(self, name, start=0):
        for number, piece in enumerate(real(self, name, start)):
            if number == after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield piece

    Location.stream = stream
    ContentStore(Location(uri), cache).pull(digest)


def test_versions_share_their_bytes_and_are_read_only(store, publish):
    one, two = publish(a="same" * 999, b="one"), publish(a="same" * 999, b="two")
    first, second = store.pull(one.digest), store.pull(two.digest)
    assert (first / "a.txt").samefile(second / "a.txt")
    assert (first / "a.txt").stat().st_mode & 0o777 == 0o444
    assert first == store.cache / "versions" / one.digest.hex


def test_two_versions_that_share_a_blob_download_it_once(store, publish, served):
    one, two = publish(a="same" * 999, b="one"), publish(a="same" * 999, b="two")
    served.clear()  # the second one was published beside the first one's blob
    threads = [threading.Thread(target=store.pull, args=(digest,)) for digest in (one.digest, two.digest)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(served.values()) == [3, 3, 3996]
    assert len(store.cached()) == 2


def test_of_many_waiting_threads_one_downloads(store, publish, served):
    manifest = publish(a="x" * 5000, b="y")
    paths, gate = [], threading.Barrier(8)

    def pull():
        gate.wait()
        paths.append(store.pull(manifest.digest))

    threads = [threading.Thread(target=pull) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(paths) == 8
    assert sorted(served.values()) == [1, 5000]
    assert [entry.name for entry in paths[0].parent.iterdir()] == [manifest.digest.hex]


def test_of_many_waiting_processes_one_downloads(store, location, publish, tmp_path):
    manifest = publish(a="x" * 5000)
    gate, log = barrier(3), tmp_path / "log"
    arguments = (location.uri, store.cache, manifest.digest, log, gate)
    children = [child(pull_in_process, *arguments) for _ in range(3)]
    [child.start() for child in children]
    [child.join() for child in children]
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(log.read_text(encoding="utf-8").splitlines()) == 1


def test_a_warm_pull_reads_nothing_from_the_home(store, publish, served, monkeypatch):
    manifest = publish(a="x")
    store.pull(manifest.digest)
    served.clear()
    monkeypatch.setattr(Location, "read", None)
    store.pull(manifest.digest)
    assert served == {}


def test_a_killed_download_goes_on_where_it_stopped(store, location, publish, served):
    manifest = publish(a="x" * 10_000)
    puller = child(pull_and_die, location.uri, store.cache, manifest.digest, 7)
    puller.start()
    puller.join()
    assert puller.exitcode == -signal.SIGKILL
    assert store.cached() == []
    there = (store.cache / "partial" / manifest.files[0].digest.hex).stat().st_size
    assert 0 < there < 10_000
    folder = store.pull(manifest.digest)
    assert (folder / "a.txt").read_text() == "x" * 10_000
    assert list(served.values()) == [10_000 - there]
    assert files(store.cache / "partial") == {}


@pytest.mark.parametrize("left", [b"y" * 3000, b"x" * 10_000 + b"x", b"y" * 10_000, b"x" * 10_000])
def test_a_partial_download_that_is_wrong_is_started_over_once(store, publish, served, left):
    manifest = publish(a="x" * 10_000)
    partial = store.cache / "partial" / manifest.files[0].digest.hex
    partial.parent.mkdir(parents=True)
    partial.write_bytes(left)
    folder = store.pull(manifest.digest)
    assert (folder / "a.txt").read_text() == "x" * 10_000
    expected = {3000: [17_000], 10_001: [10_000]}.get(len(left), [10_000] if left[:1] == b"y" else [])
    assert list(served.values()) == expected


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "extra", "link", "folder", "manifest", "blob too"])
def test_a_damaged_cache_is_repaired(store, publish, harm):
    manifest = publish(a="x" * 5000, b="y")
    folder = store.pull(manifest.digest)
    before, path = files(folder), folder / "a.txt"
    if harm in {"flip", "truncate"}:
        damage(path) if harm == "flip" else os.truncate(path, 1)
    elif harm == "extra":
        (folder / "sub").mkdir()
        (folder / "sub" / "evil.py").write_text("x")
    elif harm == "manifest":
        damage(store.cache / "manifests" / f"{manifest.digest.hex}.json")
    else:
        path.unlink()
        if harm == "link":
            path.symlink_to(folder / "b.txt")
        elif harm == "folder":
            path.mkdir()
        elif harm == "blob too":
            cached_blob(store, manifest).unlink()
    assert store.pull(manifest.digest) == folder
    assert files(folder) == before
    assert not path.is_symlink()


def test_a_repair_reads_only_what_is_damaged(store, publish, served):
    manifest = publish(a="x" * 5000, b="y" * 3000)
    damage(store.pull(manifest.digest) / "b.txt")
    served.clear()
    store.pull(manifest.digest)
    assert list(served.values()) == [3000]


def test_a_damaged_cache_and_a_damaged_home_is_an_integrity_error(store, location, publish):
    manifest = publish(a="x" * 5000)
    damage(store.pull(manifest.digest) / "a.txt")
    digest = manifest.files[0].digest
    location.write(f"blobs/sha256/{digest.hex[:2]}/{digest.hex}", b"y" * 5000)
    with pytest.raises(IntegrityError, match=digest):
        store.pull(manifest.digest)


def test_repeated_pulls_leak_no_descriptors(store, publish):
    manifest = publish(a="x")
    store.pull(manifest.digest)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (a count)
    for _ in range(20):
        store.pull(manifest.digest)
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208


def test_a_full_disk_is_a_storage_error_and_nothing_is_half_visible(store, publish, monkeypatch):
    manifest = publish(a="x" * 5000)
    real = os.fdopen

    def fdopen(descriptor, mode, buffering):
        file = real(descriptor, mode, buffering=buffering)

        class Full:
            def __getattr__(self, name):
                return getattr(file, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def write(self, piece):
                if file.tell() >= 3000:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return file.write(piece)

        return Full()

    with monkeypatch.context() as patched:
        patched.setattr(blob_cache_module.os, "fdopen", fdopen)
        with pytest.raises(StorageError, match="No space left"):
            store.pull(manifest.digest)
    assert store.cached() == []
    assert files(store.cache / "partial") == files(store.cache / "blobs") == {}
    assert len(files(store.pull(manifest.digest))) == 1


def test_a_cached_version_says_what_it_is(store, publish):
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=2)
    manifest = publish(a="x" * 1000, b="y")
    store.pull(manifest.digest)
    (version,) = store.cached()
    assert (version.digest, version.size_bytes, version.pinned, version.in_use) == (manifest.digest, 1001, False, True)
    assert before < version.last_used < before + dt.timedelta(hours=1)
