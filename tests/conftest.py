"""One Ray for all tests of a process that need one, started on this machine for this run and stopped with it."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import settings

from llamafarm_ray.serving.application import SERVE_ENV

pytest_plugins = ["failure_logs", "passed_before"]

# All TLS of the tests is on loopback, with contexts of its own; reading the system's authorities takes each client of
# HTTP 30 ms, and there are thousands.
os.environ.setdefault("SSL_CERT_FILE", str(Path(__file__).with_name("authority.pem")))
os.environ.update(SERVE_ENV)  # Ray Serve reads it when it is imported, by the first module of tests that needs Ray

settings.register_profile("machines of any speed", deadline=None)
settings.load_profile("machines of any speed")


def pytest_make_parametrize_id(val, argname):
    """Keep bytes out of tests' names: what was compressed holds the time, and workers compare their names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory):
    """A connected local Ray with 4 logical CPUs; what is asked of it runs one test after the other.

    Processes of one run of the tests start theirs in turn: a Ray gives its own processes half a minute to start.
    """
    from failure_logs import watch

    from llamafarm_ray.storage.locks import exclusive
    from llamafarm_ray.workflows.clusters.cluster import LOCAL, connect

    with contextlib.ExitStack() as stack:
        turn = exclusive(tmp_path_factory.getbasetemp().parent / "ray-starts.lock")
        with turn, pytest.MonkeyPatch.context() as environment:
            # Its workers import classes of the tests, such as models of a user's own.
            environment.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
            # As `deploy` does: without a dashboard Ray collects no metrics.
            cluster = stack.enter_context(connect(LOCAL, with_dashboard=True))
        watch(session_logs())
        yield cluster


def session_logs():
    """The folder of this process's Ray that holds all logs of its session."""
    import ray

    return Path(ray._private.worker._global_node.get_logs_dir_path())
