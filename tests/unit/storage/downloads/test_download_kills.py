"""A download that is killed at any moment goes on: at most a piece a connection comes twice, nothing is left over."""

import os
import random
import signal
import threading
from pathlib import Path

import pytest
from file_server import hub_server
from model_files import safetensors_head
from process_tools import child, pipe

from llamafarm_ray.storage.downloads.downloads import Downloads
from llamafarm_ray.storage.downloads.transfer import Transfer
from llamafarm_ray.storage.node_cache.cache import Cache
from llamafarm_ray.types import Digest

PIECE = 64 * 1024
CONNECTIONS = 3
NUM_PIECES = 24
VALUES = NUM_PIECES * PIECE // 4
WEIGHTS = safetensors_head(VALUES) + random.Random(7).randbytes(4 * VALUES)
MODEL = {"config.json": b"{}", "model.safetensors": WEIGHTS}


def download(folder, told=None):
    made = Downloads(Cache(folder), connections=CONNECTIONS, piece_bytes=PIECE).get("owner/tiny")
    if told:
        told.send(str(made.folder))
    return made


@pytest.fixture
def hub(monkeypatch):
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        server.add("owner/tiny", MODEL)
        yield server


def killed_at(hub, folder, request, delay_s):
    """Start a download in a process and kill it some time after it made so many requests to the CDN."""
    process = child(download, folder)
    reached = threading.Event()

    def look(_asked):
        if len(hub.cdn.asked) >= request:
            reached.set()

    hub.cdn.fault = look
    process.start()
    assert reached.wait(60)
    threading.Event().wait(delay_s)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    hub.cdn.fault = lambda _: None


def check_kills(hub, folder, seeds):
    for seed in seeds:
        dice = random.Random(seed)
        cache = folder / f"cache-{seed}"
        hub.cdn.asked.clear()
        killed_at(hub, cache, dice.randint(1, NUM_PIECES), dice.uniform(0, 0.02))
        found = download(cache)
        assert (found.folder / "model.safetensors").read_bytes() == WEIGHTS, seed
        assert next(file.digest for file in found.record.files if file.path.endswith("tensors")) == Digest.of(WEIGHTS)
        assert len(hub.cdn.asked) <= NUM_PIECES + 1 + CONNECTIONS, f"seed {seed}: more than a piece a connection"
        assert [path.suffix for path in (cache / "downloads").iterdir()] == [".json"], seed
        assert not [path for path in cache.rglob("*") if path.name.endswith((".part", ".pieces"))], seed


def test_a_download_that_is_killed_goes_on(hub, tmp_path):
    check_kills(hub, tmp_path, range(3))


@pytest.mark.long
def test_twenty_kills_at_random_moments(hub, tmp_path):
    check_kills(hub, tmp_path, range(100, 120))


def test_two_processes_download_it_once(hub, tmp_path):
    ends = [pipe() for _ in range(2)]
    processes = [child(download, tmp_path / "cache", end) for _, end in ends]
    for process in processes:
        process.start()
    folders = [receiver.recv() for receiver, _ in ends]
    for process in processes:
        process.join()
    assert folders[0] == folders[1]
    assert len(hub.cdn.asked) == NUM_PIECES + 1, "each piece once, and the few bytes of the header"


@pytest.mark.parametrize("step", ["part.replace", "pieces.unlink"])
def test_a_kill_while_a_file_gets_its_name_fetches_nothing_again(hub, tmp_path, monkeypatch, step):
    ending, _, call = step.partition(".")
    original = getattr(Path, call)

    def die(path, *arguments, **options):
        if path.name == f".model.safetensors.{ending}" and path.stat().st_size:
            raise SystemExit
        return original(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Transfer, "drop", lambda _: None)  # what no killed process does
        patch.setattr(Path, call, die)
        with pytest.raises(SystemExit):
            download(tmp_path)
    hub.cdn.asked.clear()
    found = download(tmp_path)
    assert (found.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.cdn.asked == []
