from types import SimpleNamespace

import pytest
import ray

from llamafarm_ray.capacity import Machine
from llamafarm_ray.config import Distributed
from llamafarm_ray.errors import ClusterError, UserError
from llamafarm_ray.training.methods.auto import Hardware, choose_method
from llamafarm_ray.training.plan.resources import choose_precision, choose_workers, count_devices, find_hardware
from llamafarm_ray.training.strategies import choose_strategy

GIB = 1024**3
CPU = Hardware(num_cpus=4)
SMALL_GPU = Hardware(num_cpus=16, num_gpus=2, gpu_memory_bytes=16 * GIB)
LARGE_GPU = Hardware(num_cpus=16, num_gpus=2, gpu_memory_bytes=80 * GIB, has_bf16=True)


@pytest.mark.parametrize(
    ("hardware", "num_parameters", "num_rows", "expected"),
    [
        (CPU, 70e9, 10**6, "lora"),
        (SMALL_GPU, 13e9, 1000, "lora"),
        (SMALL_GPU, 13.1e9, 1000, "qlora"),
        (LARGE_GPU, 7e9, 1000, "lora"),
        (LARGE_GPU, 1e9, 100_001, "full"),
        (LARGE_GPU, 1e9, 100_000, "lora"),
        (LARGE_GPU, 7e9, 100_001, "lora"),
        (LARGE_GPU, 70e9, 1000, "qlora"),
    ],
)
def test_the_decision_tree(hardware, num_parameters, num_rows, expected):
    choice = choose_method(hardware, num_parameters=int(num_parameters), num_rows=num_rows)
    assert choice.name == expected
    assert choice.reasons


@pytest.mark.parametrize(
    ("hardware", "num_workers", "method", "num_parameters", "expected"),
    [
        (CPU, 1, "full", 7e9, "single"),
        (CPU, 2, "full", 7e9, "ddp"),
        (LARGE_GPU, 2, "lora", 7e9, "ddp"),
        (LARGE_GPU, 2, "full", 7e9, "deepspeed_zero3"),
        (LARGE_GPU, 2, "qlora", 200e9, "ddp"),
    ],
)
def test_the_strategy_follows_workers_and_memory(hardware, num_workers, method, num_parameters, expected):
    choice = choose_strategy(hardware, num_workers=num_workers, method=method, num_parameters=int(num_parameters))
    assert choice.name == expected
    assert choice.reasons


@pytest.mark.parametrize(
    ("num_cpus", "workers", "each"), [(4, 1, 1), (4, 2, 1), (2, 2, 0.5), (1, 1, 0.5), (3, 3, 2 / 3)]
)
def test_a_cpu_is_left_for_the_data_where_there_is_one(num_cpus, workers, each):
    assert choose_workers(Distributed(workers=workers), Hardware(num_cpus)).num_cpus == pytest.approx(each)


def test_more_workers_than_the_cluster_can_run_are_refused_rather_than_waited_for():
    with pytest.raises(UserError, match=r"9 workers need 0\.5 CPU each, but the cluster has 4"):
        choose_workers(Distributed(workers=9), CPU)
    with pytest.raises(UserError, match="3 workers need a GPU each, but the cluster has 2"):
        choose_workers(Distributed(workers=3), LARGE_GPU)
    with pytest.raises(UserError, match="gpus is 8, but the cluster has no GPU"):
        choose_workers(Distributed(gpus=8), CPU)


def test_gpus_compute_in_bf16_or_where_they_have_none_in_fp16():
    for is_half in (False, True):
        chosen = [choose_precision("auto", each, is_half=is_half) for each in (CPU, SMALL_GPU, LARGE_GPU)]
        assert chosen == ["fp32", "fp16", "bf16"]
    assert choose_precision("fp32", LARGE_GPU, is_half=True) == "fp32"


def test_cpus_that_multiply_in_bf16_do_so_for_models_that_are_kept_in_16_bits():
    fast = Hardware(num_cpus=4, has_bf16=True)
    assert [choose_precision("auto", fast, is_half=is_half) for is_half in (False, True)] == ["fp32", "bf16"]
    assert choose_precision("fp32", fast, is_half=True) == "fp32"


@pytest.mark.parametrize(
    ("features", "has_bf16"), [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({}, False)]
)
def test_a_cluster_of_this_machine_has_the_bf16_of_its_processor(monkeypatch, features, has_bf16):
    node = {"NodeID": "here", "Alive": True, "Resources": {"CPU": 4.0}}
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: [node, {"NodeID": "gone", "Alive": False, "Resources": {}}])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: features)
    assert find_hardware() == Hardware(num_cpus=4.0, has_bf16=has_bf16)


class BusyRay:
    """The calls of ray that look at a GPU, on a cluster whose GPUs are all held by others."""

    def __init__(self, monkeypatch):
        self.cancelled = []
        for name in ("is_initialized", "nodes", "remote", "get", "cancel"):
            monkeypatch.setattr(ray, name, getattr(self, name))

    def is_initialized(self):
        return True

    def nodes(self):
        return [{"NodeID": "here", "Alive": True, "Resources": {"CPU": 16.0, "GPU": 8.0}}]

    def remote(self, **resources):
        assert resources["num_gpus"] == 1
        return lambda _function: SimpleNamespace(remote=lambda: "inspection")

    def get(self, _reference, *, timeout=None):
        assert timeout is not None, "it would wait for ever"
        raise ray.exceptions.GetTimeoutError

    def cancel(self, reference, *, force):
        assert force
        self.cancelled.append(reference)


def test_gpus_that_others_hold_are_not_waited_for_for_ever(monkeypatch):
    busy = BusyRay(monkeypatch)
    with pytest.raises(ClusterError, match=r"None of the cluster's GPUs \(8\) .* within 120 s.*`ray status`"):
        find_hardware()
    assert busy.cancelled == ["inspection"], "it must not take a GPU once there is one"


class HeadAlone(BusyRay):
    """A head without CPUs, whose autoscaler may start two machines of four GPUs each."""

    def __init__(self, monkeypatch):
        super().__init__(monkeypatch)
        found = [Machine({}), *[Machine({"CPU": 48.0, "GPU": 4.0}, is_running=False)] * 2]
        monkeypatch.setattr("llamafarm_ray.training.plan.resources.machines", lambda: found)
        self.asked = []

    def remote(self, **resources):
        self.asked.append(resources["num_gpus"])
        return lambda _function: SimpleNamespace(remote=lambda: "inspection")

    def get(self, _reference, *, timeout=None):
        self.waited = timeout
        return 48 * 2**30, True


def test_a_machine_with_gpus_that_must_start_is_asked_for_and_waited_for(monkeypatch):
    cluster, said = HeadAlone(monkeypatch), []
    assert count_devices() == Hardware(num_cpus=96.0, num_gpus=8)
    assert find_hardware(4, said.append) == Hardware(96.0, 8, 48 * 2**30, has_bf16=True)
    assert cluster.asked == [4], "a smaller machine is not what the workers need"
    find_hardware(8)
    assert cluster.asked[-1] == 4, "no machine has more"
    assert cluster.waited >= 1200
    assert "autoscaler" in said[0]
    workers = choose_workers(Distributed(gpus=4, nodes=2), count_devices())
    assert (workers.num_workers, workers.use_gpu) == (8, True)


def test_a_machine_with_gpus_that_does_not_start_is_no_mystery(monkeypatch):
    cluster = HeadAlone(monkeypatch)

    def get(_reference, *, timeout):
        raise ray.exceptions.GetTimeoutError

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(ClusterError, match=r"did not start a machine with a GPU within 1800 s.*`ray status`"):
        find_hardware()
    assert cluster.cancelled == ["inspection"]


def test_a_machine_is_started_where_a_deployment_holds_the_gpu_of_the_one_that_runs(monkeypatch):
    cluster = HeadAlone(monkeypatch)
    found = [Machine({"CPU": 8.0, "GPU": 1.0}), Machine({"CPU": 48.0, "GPU": 4.0}, is_running=False)]
    monkeypatch.setattr("llamafarm_ray.training.plan.resources.machines", lambda: found)
    assert find_hardware(4) == Hardware(56.0, 5, 48 * 2**30, has_bf16=True)
    assert cluster.asked == [4], "the small machine is not what the workers run on"
    assert cluster.waited >= 1200


def test_cpus_of_machines_that_are_yet_to_start_are_not_said_to_have_bf16(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(
        "llamafarm_ray.training.plan.resources.machines",
        lambda: [Machine({}), Machine({"CPU": 16.0}, is_running=False)],
    )
    assert find_hardware() == Hardware(num_cpus=16.0, has_bf16=False)


def test_without_ray_it_says_how_to_start_it():
    with pytest.raises(ClusterError, match=r"ray\.init"):
        find_hardware()
