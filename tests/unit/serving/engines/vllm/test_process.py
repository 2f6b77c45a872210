"""When vLLM's engine is one process; that it is then, an integration test sees."""

import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest
from patience import patience

from llamafarm_ray.serving.engines.vllm import process as vllm_process
from llamafarm_ray.serving.engines.vllm.process import EXECUTOR, WORKER, engine_arranged, keep_sockets_in


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
    engine = ModuleType("vllm.v1.engine")
    engine.utils = SimpleNamespace(get_mp_context=multiprocessing.get_context)
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: request.param)
    processes.OMPProcessManager = Manager
    for module in (ModuleType("vllm"), ModuleType("vllm.utils"), ModuleType("vllm.v1"), engine, platforms, processes):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delenv("GOMP_CPU_AFFINITY", raising=False)
    monkeypatch.setattr(vllm_process, "_prepared", None)
    return request.param


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_lone_worker_on_a_cpu_shares_the_engines_process_which_its_threads_are_bound_in(is_cpu, num_workers):
    parallel = parallel_config(num_workers)
    with engine_arranged(SimpleNamespace(parallel_config=parallel)):
        is_one = parallel.distributed_executor_backend == EXECUTOR
        assert is_one == (is_cpu and num_workers == 1)
        assert ("GOMP_CPU_AFFINITY" in os.environ) == is_one
    assert "GOMP_CPU_AFFINITY" not in os.environ
    assert parallel.distributed_executor_backend in {EXECUTOR, "mp"}


def parallel_config(num_workers=1, worker="vllm.v1.worker.cpu_worker.CPUWorker"):
    return SimpleNamespace(distributed_executor_backend="mp", world_size_across_dp=num_workers, worker_cls=worker)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_on_a_cpu_our_worker_takes_the_place_of_vllms_and_of_no_other(is_cpu, num_workers):
    vllms, own = parallel_config(num_workers), parallel_config(num_workers, "some.Worker")
    for parallel in (vllms, own):
        with engine_arranged(SimpleNamespace(parallel_config=parallel)):
            pass
    assert vllms.worker_cls == (WORKER if is_cpu else "vllm.v1.worker.cpu_worker.CPUWorker")
    assert own.worker_cls == "some.Worker"


def test_an_engines_process_repairs_vllm_before_it_runs(is_cpu, monkeypatch):
    done = []
    grammars = ModuleType("llamafarm_ray.serving.engines.vllm.grammars")
    grammars.use_grammar_manager = lambda: done.append("repaired")
    monkeypatch.setitem(sys.modules, grammars.__name__, grammars)
    with engine_arranged(SimpleNamespace(parallel_config=parallel_config(2))):
        context = sys.modules["vllm.v1.engine"].utils.get_mp_context()
    process = context.Process(target=done.append, name="engine", kwargs={})
    process._target(run=lambda **kwargs: done.append(kwargs), seconds=1)
    assert (process.name, done) == ("engine", ["repaired", {"seconds": 1}])


@pytest.fixture
def fork_server(monkeypatch):
    """What a fork server would begin with, instead of one."""
    began = []
    for name in (*vllm_process._AT_EXEC, "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(vllm_process, "_prepared", None)
    monkeypatch.setattr(vllm_process.multiprocessing, "set_forkserver_preload", lambda _: None)
    monkeypatch.setattr(vllm_process.forkserver, "ensure_running", lambda: began.append(vllm_process._settings()))
    yield began
    os.environ.pop("VLLM_CPU_OMP_THREADS_BIND", None)


def machine(monkeypatch, folder, cpus):
    """CPUs given as (node, package, core), by number."""
    for number, (node, package, core) in enumerate(cpus):
        topology = folder / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology.parent / f"node{node}").mkdir()
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "core_id").write_text(f"{core}\n")
    monkeypatch.setattr(vllm_process, "_CPUS", folder)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(len(cpus))))


@pytest.mark.parametrize(
    ("cpus", "bound"),
    [
        ([(0, 0, 0)], [0]),
        ([(0, 0, 0), (0, 0, 1)], [0]),
        ([(0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 1)], [2]),  # two threads a core
        ([(0, 0, 0), (0, 0, 1), (0, 0, 2), (1, 1, 0), (1, 1, 1), (1, 1, 2)], [0, 1]),  # two nodes
    ],
)
def test_an_engine_alone_on_a_machine_leaves_a_core(monkeypatch, tmp_path, fork_server, cpus, bound):
    machine(monkeypatch, tmp_path, cpus)
    vllm_process.prepare()
    assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == ",".join(map(str, bound))
    [began] = fork_server
    assert began["GOMP_CPU_AFFINITY"] == " ".join(map(str, bound))
    assert began["OMP_NUM_THREADS"] == str(len(bound))
    assert "libgomp" in began["LD_PRELOAD"]
    assert set(vllm_process._settings().values()) == {None}, "this process's own settings are as before"


def test_where_the_machine_does_not_say_what_it_has_vllm_decides(monkeypatch, tmp_path, fork_server):
    monkeypatch.setattr(vllm_process, "_CPUS", tmp_path / "hidden")
    vllm_process.prepare()
    assert fork_server == []
    assert "VLLM_CPU_OMP_THREADS_BIND" not in os.environ


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VLLM_CPU_OMP_THREADS_BIND", "auto"),
        ("VLLM_CPU_OMP_THREADS_BIND", "0-3"),
        ("VLLM_CPU_OMP_THREADS_BIND", "0|1"),
        ("VLLM_CPU_NUM_OF_RESERVED_CPU", "2"),
        ("LD_PRELOAD", "/opt/libiomp5.so"),
    ],
)
def test_vllm_is_left_alone_with_what_an_operator_arranged(monkeypatch, fork_server, name, value):
    monkeypatch.setenv(name, value)
    vllm_process.prepare()
    assert fork_server == []
    assert os.environ.get("VLLM_CPU_OMP_THREADS_BIND") == (value if name.endswith("BIND") else None)


def test_threads_that_are_bound_to_nothing_stay_so(monkeypatch, fork_server):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    vllm_process.prepare()
    [began] = fork_server
    assert began["GOMP_CPU_AFFINITY"] is None
    assert began["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("is_as_wanted", [True, False])
def test_an_engine_is_forked_only_if_it_begins_as_vllm_wants(monkeypatch, is_cpu, is_as_wanted):
    wanted = vllm_process._settings() | {"GOMP_CPU_AFFINITY": "0 0" if is_as_wanted else "1 2"}
    monkeypatch.setattr(vllm_process, "_prepared", wanted)
    utils = sys.modules["vllm.v1.engine"].utils
    before = utils.get_mp_context
    with engine_arranged(SimpleNamespace(parallel_config=parallel_config())):
        is_forked = isinstance(utils.get_mp_context()._context, vllm_process._Forked)
        assert is_forked == (is_cpu and is_as_wanted)
    assert utils.get_mp_context is before


PARENT = """
import os, sys, time
from llamafarm_ray.serving.engines.vllm import process as vllm_process

def work(seconds):
    print(os.getpid(), flush=True)
    time.sleep(seconds)

if __name__ == "__main__":
    vllm_process._Forked().Process(target=work, name="engine", kwargs={"seconds": 600}).start()
    sys.stdin.read()
"""


def test_a_forked_process_ends_with_the_one_that_asked_for_it(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        engine = psutil.Process(int(parent.stdout.readline()))
        assert engine.is_running()
        parent.kill()
        engine.wait(timeout=patience(30))


def test_a_forked_process_has_the_environment_of_the_one_that_asked(monkeypatch):
    monkeypatch.setenv("LLAMAFARM_TEST", "here")
    receiver, sender = vllm_process.multiprocessing.Pipe(duplex=False)
    context = vllm_process._Forked()
    process = context.Process(target=tell, name="told", kwargs={"sender": sender})
    monkeypatch.setenv("LLAMAFARM_TEST", "later")
    process.start()
    assert receiver.poll(60)
    assert receiver.recv() == ("here", "told")
    process.join()
    assert context.get_start_method() == "forkserver"


def tell(sender):
    sender.send((os.environ["LLAMAFARM_TEST"], vllm_process.multiprocessing.current_process().name))


@pytest.mark.parametrize(("given", "expected"), [(None, "ours"), ("/operators", "/operators")])
def test_sockets_are_put_where_they_are_removed_and_an_operators_choice_stays(tmp_path, monkeypatch, given, expected):
    monkeypatch.delenv("VLLM_RPC_BASE_PATH", raising=False)
    folder = tmp_path / "ours"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)  # a short path, wherever the tests' folders are
    if given is not None:
        monkeypatch.setenv("VLLM_RPC_BASE_PATH", given)
    keep_sockets_in("ours")
    assert os.environ["VLLM_RPC_BASE_PATH"] == expected


@pytest.mark.parametrize("length", [70, 71])
def test_a_folder_whose_sockets_the_system_would_refuse_is_not_used(tmp_path, monkeypatch, length):
    monkeypatch.delenv("VLLM_RPC_BASE_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("f" * length).mkdir()
    keep_sockets_in("f" * length)
    assert ("VLLM_RPC_BASE_PATH" in os.environ) == (length == 70)
    monkeypatch.delenv("VLLM_RPC_BASE_PATH", raising=False)
    fits = contextlib.nullcontext() if length == 70 else pytest.raises(OSError, match="too long")
    with socket.socket(socket.AF_UNIX) as made, fits:
        made.bind(f"{'f' * length}/{uuid.uuid4()}")
