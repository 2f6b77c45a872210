"""One Ray for all tests that need one, started on this machine for this run and stopped with it."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("machines of any speed", deadline=None)
settings.load_profile("machines of any speed")


@pytest.fixture(scope="session")
def ray_cluster():
    """A connected local Ray with 4 logical CPUs; what is asked of it runs one test after the other."""
    os.environ.pop("RAY_ADDRESS", None)
    from llamafarm_ray.workflows.cluster import connect

    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as environment:
            # Its workers import classes of the tests, such as models of a user's own.
            environment.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
            # As `deploy` does: without a dashboard Ray collects no metrics.
            cluster = stack.enter_context(connect(None, with_dashboard=True))
        yield cluster
