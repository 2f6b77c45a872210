"""One Ray for all tests of a process that need one, started on this machine for this run and stopped with it."""

import contextlib
import gc
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

# On machines of any speed, and each time the same: what one run passes, the next one does not fail by chance.
settings.register_profile("the same examples", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("new examples", deadline=None, max_examples=1000)
settings.load_profile("the same examples")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect no garbage while tests are imported, and later not among what was made then.

    The libraries make millions of objects, and none of them goes.
    """
    gc.disable()
    try:
        result = yield
        gc.freeze()
    finally:
        gc.enable()
    return result


def pytest_unconfigure():
    """Let go of the libraries' objects at the end: some say otherwise that they are left."""
    gc.unfreeze()


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
            cluster = stack.enter_context(
                connect(LOCAL, with_dashboard=True, meanwhile="llamafarm_ray.training.trainer")
            )
        watch(session_logs())
        yield cluster


def session_logs():
    """The folder of this process's Ray that holds all logs of its session."""
    import ray

    return Path(ray._private.worker._global_node.get_logs_dir_path())
