"""Folders to publish, and homes on both sorts of storage."""

import pytest
from model_files import safetensors_bytes
from s3 import bucket, s3_server  # noqa: F401  (fixtures)

from llamafarm_ray.storage import ContentStore, Location


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "adapter"
    (made / "sub").mkdir(parents=True)
    (made / "adapter_model.safetensors").write_bytes(safetensors_bytes(1.0, 1.0))
    (made / "adapter_config.json").write_text("{}")
    (made / "sub" / "vocab.txt").write_text("a\nb\n")
    return made


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def location(request, tmp_path):
    """An empty home, once in a folder and once in a bucket."""
    return Location(tmp_path / "home" if request.param == "local" else request.getfixturevalue("bucket") + "/home")


@pytest.fixture
def store(location, tmp_path):
    return ContentStore(location, tmp_path / "cache")


@pytest.fixture
def local_store(tmp_path):
    return ContentStore(Location(tmp_path / "home"), tmp_path / "cache")


@pytest.fixture
def publish(store, tmp_path):
    """Publishes texts as the files of a version; its manifest."""

    def run(**texts):
        made = tmp_path / f"version-{len(list(tmp_path.iterdir()))}"
        made.mkdir()
        for name, text in texts.items():
            (made / f"{name}.txt").write_text(text)
        return store.publish(made)

    return run
