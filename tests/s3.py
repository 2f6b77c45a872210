"""An object store for tests: a moto server of this process on a port of its own, and a new bucket for each test."""

import contextlib
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

__all__ = ["bucket", "s3_on", "s3_server"]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Any]:
    """A file system on a running S3 server."""
    with s3_on("127.0.0.1", 0) as files:
        yield files


@contextlib.contextmanager
def s3_on(address: str, port: int) -> Iterator[Any]:
    """Run an S3 server at an address for the time of a block; gives a file system on it. Port 0 is a free one."""
    import fsspec
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line a request
    server = ThreadedMotoServer(ip_address=address, port=port, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield fsspec.filesystem(
            "s3",
            key="test",
            secret="test",  # noqa: S106  (moto takes any)
            endpoint_url=f"http://{host}:{port}",
            use_listings_cache=False,
            skip_instance_cache=True,
        )
    finally:
        server.stop()


@pytest.fixture
def bucket(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty bucket; the environment says where it is and how to get in."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    name = f"test-{uuid.uuid4().hex}"
    s3_server.mkdir(name)
    return f"s3://{name}"
