"""What holds for every unit test: one thread a process for torch, and no Ray."""

import os
import sys
from collections.abc import Iterator

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read when torch is imported
    os.environ.setdefault(name, "1")
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # most of Ray's functions start a cluster where there is none


@pytest.fixture(autouse=True)
def no_ray_is_left() -> Iterator[None]:
    """Fail a test that connects to Ray: what it leaves behind changes the tests after it."""
    yield
    ray = sys.modules.get("ray")
    if ray is not None and getattr(ray, "is_initialized", bool)():
        ray.shutdown()
        pytest.fail("this test started or joined a Ray cluster: unit tests need none")
