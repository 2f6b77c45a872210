"""Run of vLLM's scheduler and its one CPU worker in a single process, which starts sooner.

By default vLLM's CPU backend gives the worker a process of its own, and whichever of the two waits for the other spins:
an engine takes two whole cores, one of them for nothing, and what else a small machine has to do (HTTP, Ray) waits for
them. vLLM refuses ``distributed_executor_backend="uni"`` there since the worker's OpenMP settings must be in its
environment before it starts. Here they are in the environment of the process that has both.

That process has to import vLLM as the replica had to before, seven seconds each. So a fork server begins to when the
replica does (:func:`prepare`), and the engine's process is forked from it, provided that its OpenMP settings are those
that vLLM then wants; else it is started anew.

Here is also where an engine gets the repairs of :mod:`.worker` and :mod:`.grammars`, on any hardware.

It relies on ``OMPProcessManager.configure_omp_envs``, on ``UniProcExecutor``, on ``ParallelConfig``'s
``distributed_executor_backend`` and ``worker_cls`` taking a class's name, on ``vllm.v1.engine.utils``'s
``get_mp_context``, by which an engine's process is started, and on ``VLLM_RPC_BASE_PATH``. A test names each.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.config import VllmConfig

__all__ = ["EXECUTOR", "WORKER", "engine_arranged", "keep_sockets_in", "prepare"]

logger = logging.getLogger(__name__)

EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""Executor that computes in the scheduler's process."""
WORKER = "llamafarm_ray.serving.engines.vllm.worker.Worker"
"""Worker on a CPU, in place of vLLM's own."""
_CPU_WORKER = "vllm.v1.worker.cpu_worker.CPUWorker"
_IMPORTED = ["llamafarm_ray.serving.engines.vllm.imports"]
_BOUND = "VLLM_CPU_OMP_THREADS_BIND"
_AT_EXEC = ("LD_PRELOAD", "OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Variables read at a process's start: a forked process has its fork server's values."""
_FOR_AUTO = ("VLLM_CPU_NUM_OF_RESERVED_CPU", "CPU_VISIBLE_MEMORY_NODES", "VLLM_CPU_SIM_MULTI_NUMA")
"""Variables that change vLLM's automatic choice of cores."""
_CPUS = Path("/sys/devices/system/cpu")
_SOCKETS = "VLLM_RPC_BASE_PATH"
_MOST_SOCKET_PATH_BYTES = 107
_SOCKET_NAME_BYTES = len("/01234567-89ab-cdef-0123-456789abcdef")

_prepared: Mapping[str, str | None] | None = None


def prepare() -> None:
    """Import vLLM in the fork server of this process, on a CPU, before vLLM is imported here.

    Unless set otherwise, this also decides on the cores that the engine computes on, and passes them to vLLM.
    """
    global _prepared  # noqa: PLW0603  (as the fork server, it is one for the process)
    bound = os.environ.get(_BOUND, "")
    if "omp" in os.environ.get("LD_PRELOAD", "") or any(name in os.environ for name in _FOR_AUTO):
        return  # an operator's own arrangement, which vLLM is left alone with
    if not bound:
        try:
            bound = ",".join(map(str, _cores()))
        except (OSError, AttributeError) as error:  # not Linux, or a container that hides its processors
            logger.info("vLLM decides on the cores, and its engine imports it anew: %s", error)
            return
    if re.fullmatch(r"nobind|\d+(,\d+)*", bound) is None:
        return
    os.environ[_BOUND] = bound
    wanted = {"LD_PRELOAD": _preloaded(os.environ.get("LD_PRELOAD", ""))}
    if bound != "nobind":
        cores = bound.split(",")
        wanted |= {"OMP_NUM_THREADS": str(len(cores)), "GOMP_CPU_AFFINITY": " ".join(cores)}
    before = _settings()
    try:
        os.environ.update({name: value for name, value in wanted.items() if value})
        multiprocessing.set_forkserver_preload(_IMPORTED)
        forkserver.ensure_running()
        _prepared = _settings()
    except OSError as error:
        logger.warning("The engine's process imports vLLM anew, since no fork server could be started: %s", error)
    finally:
        _set(before)


def keep_sockets_in(folder: str) -> None:
    """Make vLLM of this process, and of its children, put its sockets into a folder of their own.

    No vLLM removes them, however it ends: they go with the folder. An operator's choice stays as it is, and so does
    vLLM's own, the folder for temporary files, where socket paths would be too long for the system.

    Args:
        folder: that of Ray's temporary files, which a local Ray removes at its end.
    """
    if len(os.fsencode(folder)) + _SOCKET_NAME_BYTES <= _MOST_SOCKET_PATH_BYTES and os.access(folder, os.W_OK):
        os.environ.setdefault(_SOCKETS, folder)


def _cores() -> list[int]:
    """One logical CPU of each core that this process may use, on one NUMA node; the last is left to all else."""
    found: dict[tuple[int, str, str], int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        folder = _CPUS / f"cpu{cpu}"
        node = min((int(path.name[4:]) for path in folder.glob("node[0-9]*")), default=0)
        package, core = ((folder / "topology" / f"{name}_id").read_text() for name in ("physical_package", "core"))
        found[node, package, core] = cpu
    first = min(node for node, _, _ in found)
    cores = sorted(cpu for (node, _, _), cpu in found.items() if node == first)
    return cores[:-1] or cores


def _preloaded(given: str) -> str:
    """The libraries that vLLM has its CPU workers begin with, in its order."""
    torch, bundled = _folder("torch"), _folder("vllm") / "libs"
    gomp = _first(torch.parent / "torch.libs", "libgomp*.so*") or _first(torch / "lib", "libgomp*.so*")
    malloc = _first(bundled, "libtcmalloc_minimal*.so*") or _first(bundled, "libtcmalloc.so*")
    return ":".join(one for one in (malloc, given, gomp) if one)


def _folder(package: str) -> Path:
    """Return the folder of a package without importing it."""
    spec = find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else Path("not installed")


def _first(folder: Path, pattern: str) -> str | None:
    # By glob, as vLLM does: in the order of the folder, which pathlib's is not.
    return next(iter(glob.glob(str(folder / pattern))), None)  # noqa: PTH207


def _settings() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in _AT_EXEC}


def _set(settings: Mapping[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class _Forked:
    """A multiprocessing context whose processes are forked from the fork server and get this one's environment."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")

    def Process(self, *, target: Callable[..., object], name: str, kwargs: Mapping[str, Any]) -> Any:  # noqa: N802
        """A process, as multiprocessing's."""
        environment = dict(os.environ)
        return self._context.Process(target=_in_environment, name=name, args=(environment, target), kwargs=kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _in_environment(environment: Mapping[str, str], target: Callable[..., object], **kwargs: Any) -> None:
    """Run in a forked process, which ends with the one that asked for it, however that ends.

    Ray ends the children of a worker that died, and this one is a child of the fork server.
    """
    threading.Thread(target=_end_with_parent, name="llamafarm-parent", daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    target(**kwargs)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


class _Mended:
    """A multiprocessing context whose processes repair vLLM before they run its engine.

    Args:
        context: starts the processes.
    """

    def __init__(self, context: Any) -> None:
        self._context = context

    def Process(self, *, target: Callable[..., object], name: str, kwargs: Mapping[str, Any]) -> Any:  # noqa: N802
        """A process, as multiprocessing's."""
        return self._context.Process(target=_run_mended, name=name, kwargs={"run": target, **kwargs})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _run_mended(run: Callable[..., object], **kwargs: Any) -> None:
    from llamafarm_ray.serving.engines.vllm.grammars import use_grammar_manager  # imports vLLM

    use_grammar_manager()
    run(**kwargs)


@contextlib.contextmanager
def engine_arranged(vllm_config: VllmConfig) -> Iterator[None]:
    """Start the engine in the block: repaired, and on a CPU with one worker in one process.

    Args:
        vllm_config: vLLM's ``VllmConfig``, which this changes.
    """
    # Importing vLLM takes seconds, and is done in replicas alone.
    from vllm.platforms import current_platform
    from vllm.v1.engine import utils

    with contextlib.ExitStack() as stack:
        if current_platform.is_cpu():
            if vllm_config.parallel_config.worker_cls == _CPU_WORKER:
                vllm_config.parallel_config.worker_cls = WORKER
            if vllm_config.parallel_config.world_size_across_dp == 1:
                stack.enter_context(_in_one_process(vllm_config))
        before = utils.get_mp_context
        stack.callback(setattr, utils, "get_mp_context", before)
        utils.get_mp_context = lambda: _Mended(before())
        yield


@contextlib.contextmanager
def _in_one_process(vllm_config: VllmConfig) -> Iterator[None]:
    from vllm.utils.ompmultiprocessing import OMPProcessManager

    vllm_config.parallel_config.distributed_executor_backend = EXECUTOR
    with OMPProcessManager(vllm_config).configure_omp_envs(rank=0, local_rank=0), _forked_if_prepared():
        yield


@contextlib.contextmanager
def _forked_if_prepared() -> Iterator[None]:
    from vllm.v1.engine import utils

    if _prepared is None or _prepared != (wanted := _settings()):
        if _prepared is not None:
            logger.info("The engine's process imports vLLM anew: %s was prepared, and %s is wanted.", _prepared, wanted)
            forkserver._forkserver._stop()  # type: ignore[attr-defined]  # noqa: SLF001  (hundreds of MB for nothing)
        yield
        return
    before, utils.get_mp_context = utils.get_mp_context, _Forked
    try:
        yield
    finally:
        utils.get_mp_context = before
