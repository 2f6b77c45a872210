"""One Ray for all tests that need one, started on this machine for this run and stopped with it."""

import os

import pytest
from hypothesis import settings

settings.register_profile("machines of any speed", deadline=None)
settings.load_profile("machines of any speed")


@pytest.fixture(scope="session")
def ray_cluster():
    """A connected local Ray with 4 logical CPUs; what is asked of it runs one test after the other."""
    os.environ.pop("RAY_ADDRESS", None)
    from llamafarm_ray.workflows.cluster import connect

    with connect(None, with_dashboard=True) as cluster:  # as `deploy` does: without one Ray collects no metrics
        yield cluster
