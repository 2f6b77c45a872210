"""Fixtures of the long tests."""

import time

import pytest
from s3 import s3_server  # noqa: F401  (a fixture)


@pytest.fixture(scope="module")
def ray_cluster(ray_cluster):
    """The session's cluster, with a Serve that listens wherever the module wants it to."""
    end_serve()
    yield ray_cluster
    end_serve()


def end_serve():
    """``serve.shutdown`` gives up waiting after half a minute, while replicas end their answers."""
    from ray import serve

    from llamafarm_ray.serving.replicas import http_address

    deadline = time.monotonic() + 300
    while http_address() is not None:
        assert time.monotonic() < deadline, "Serve does not end"
        serve.shutdown()
