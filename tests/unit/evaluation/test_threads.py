"""A worker of an evaluation uses its share of the machine's cores, and not the one thread that Ray gives it."""

import os

import pytest
import torch

from llamafarm_ray.evaluation.benchmarks.workers import _Worker
from llamafarm_ray.evaluation.remote import _Done, _run
from llamafarm_ray.evaluation.threads import share_of_cores


def threads_of(_settings, _report):
    """The results of an evaluation."""
    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """Ray started this process for one CPU, on a machine with two cores."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1})
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("workers", "threads"), [(1, 2), (2, 1), (3, 1)])
def test_tasks_and_actors_share_the_cores(workers, threads):
    *_, done = _run(f"{__name__}:threads_of", {}, workers)
    assert done == _Done((threads, str(threads)))
    torch.set_num_threads(8)
    _Worker(workers)
    assert threads_of({}, None) == (threads, str(threads))


@pytest.mark.parametrize(("workers", "cores", "threads"), [(1, 16, 16), (3, 16, 5), (16, 16, 1), (40, 16, 1)])
def test_no_core_has_two_threads_and_no_worker_none(workers, cores, threads):
    assert share_of_cores(workers, cores) == threads
