"""On a CPU, vLLM's scheduler and its one worker in one process.

By default vLLM's CPU backend gives the worker a process of its own, and whichever of the two waits for the other spins:
an engine takes two whole cores, one of them for nothing, and what else a small machine has to do (HTTP, Ray) waits for
them. vLLM refuses ``distributed_executor_backend="uni"`` there since the worker's OpenMP settings must be in its
environment before it starts. Here they are in the environment of the process that has both.

With :mod:`.vllm_adapters` the only module that touches vLLM. It relies on ``OMPProcessManager.configure_omp_envs``,
on ``UniProcExecutor``, and on ``ParallelConfig.distributed_executor_backend`` taking a class's name. A test names each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

__all__ = ["EXECUTOR", "in_one_process"]

EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""What computes in the scheduler's process."""


@contextlib.contextmanager
def in_one_process(vllm_config: Any) -> Iterator[None]:
    """Start the engine in the block; on a CPU with one worker that takes one process.

    Args:
        vllm_config: vLLM's ``VllmConfig``, which this changes.
    """
    # Importing vLLM takes seconds, and is done in replicas alone.
    from vllm.platforms import current_platform  # noqa: PLC0415
    from vllm.utils.ompmultiprocessing import OMPProcessManager  # noqa: PLC0415

    parallel = vllm_config.parallel_config
    if not current_platform.is_cpu() or parallel.world_size_across_dp > 1:
        yield
        return
    parallel.distributed_executor_backend = EXECUTOR
    with OMPProcessManager(vllm_config).configure_omp_envs(rank=0, local_rank=0):
        yield
