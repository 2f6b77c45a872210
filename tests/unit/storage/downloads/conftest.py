"""Sources on loopback, a cache, and a way to download into it."""

import pytest
from download_sources import MODEL, QUICK
from file_server import file_server, hub_server

from llamafarm_ray.storage.downloads.downloads import Downloads, Report
from llamafarm_ray.storage.node_cache.cache import Cache


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """An environment without anybody's tokens, caches and proxies."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def hub(monkeypatch):
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.add("owner/tiny", MODEL)
        yield server


@pytest.fixture
def web():
    with file_server() as server:
        yield server


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def notes():
    return []


@pytest.fixture
def get(cache, notes):
    def call(source, **options):
        downloads = Downloads(cache, patience=QUICK, piece_bytes=500)
        return downloads.get(source, report=Report(note=notes.append), **options)

    return call
