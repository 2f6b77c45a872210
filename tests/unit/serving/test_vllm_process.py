"""When vLLM's engine is one process; that it is then, an integration test sees."""

import contextlib
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from llamafarm_ray.serving.vllm_process import EXECUTOR, in_one_process


@pytest.fixture(params=[True, False], ids=["cpu", "gpu"])
def is_cpu(request, monkeypatch):
    class Manager:
        def __init__(self, config):
            assert config.parallel_config.distributed_executor_backend == EXECUTOR

        @contextlib.contextmanager
        def configure_omp_envs(self, rank, local_rank):
            monkeypatch.setenv("GOMP_CPU_AFFINITY", f"{rank} {local_rank}")
            yield
            monkeypatch.delenv("GOMP_CPU_AFFINITY")

    platforms, processes = ModuleType("vllm.platforms"), ModuleType("vllm.utils.ompmultiprocessing")
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: request.param)
    processes.OMPProcessManager = Manager
    for module in (ModuleType("vllm"), ModuleType("vllm.utils"), platforms, processes):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delenv("GOMP_CPU_AFFINITY", raising=False)
    return request.param


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_lone_worker_on_a_cpu_shares_the_engines_process_which_its_threads_are_bound_in(is_cpu, num_workers):
    parallel = SimpleNamespace(distributed_executor_backend="mp", world_size_across_dp=num_workers)
    with in_one_process(SimpleNamespace(parallel_config=parallel)):
        is_one = parallel.distributed_executor_backend == EXECUTOR
        assert is_one == (is_cpu and num_workers == 1)
        assert ("GOMP_CPU_AFFINITY" in os.environ) == is_one
    assert "GOMP_CPU_AFFINITY" not in os.environ
    assert parallel.distributed_executor_backend in {EXECUTOR, "mp"}
