"""What an autoscaler may start is read from the file of `ray up` or the RayCluster, and decides with what runs."""

import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import ray
import yaml

from llamafarm_ray.capacity import autoscaler, is_on_one_machine, machines, total
from llamafarm_ray.capacity.autoscaler import Limits, MachineType, limits_of_file, limits_of_ray_cluster, read_limits
from llamafarm_ray.capacity.cluster import _limits_of

ROOT = Path(__file__).parents[3]
HEAD = {"node:__internal_head__": 1.0}


def test_the_shipped_cluster_may_start_machines_with_gpus():
    limits = limits_of_file(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    assert limits.most == 12
    assert MachineType({"CPU": 48, "GPU": 4, "accelerator_type:L40S": 1}, 4) in limits.types
    assert len(limits.types) == 5, "the head is none of them"


@pytest.mark.parametrize("name", ["gcp", "azure"])
def test_the_other_clouds_clusters_may_start_machines_with_gpus(name):
    limits = limits_of_file(yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text()))
    assert any(one.resources.get("GPU") for one in limits.types)


def test_machines_of_ones_own_are_no_more_than_those_that_run():
    assert limits_of_file({"provider": {"type": "local", "worker_ips": ["10.0.0.2"]}}) == Limits((), 0)


def test_the_shipped_ray_cluster_may_start_pods_with_gpus():
    manifest = yaml.safe_load((ROOT / "cluster" / "kubernetes" / "base" / "cluster.yaml").read_text())
    types = limits_of_ray_cluster(manifest).types
    assert MachineType({"CPU": 8.0, "memory": 64.0 * 2**30, "GPU": 1.0}, 4) in types
    manifest["spec"]["enableInTreeAutoscaling"] = False
    assert limits_of_ray_cluster(manifest) == Limits()


def test_the_start_of_a_pod_may_name_other_resources_than_its_container_has():
    group = {
        "maxReplicas": 2,
        "rayStartParams": {"num-cpus": "3"},
        "template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "2500m", "amd.com/gpu": 2}}}]}},
    }
    spec = {"enableInTreeAutoscaling": True, "workerGroupSpecs": [group, group | {"suspend": True}]}
    assert limits_of_ray_cluster({"spec": spec}).types == (MachineType({"CPU": 3.0, "GPU": 2.0}, 2),)


@pytest.fixture
def processes(monkeypatch):
    def run(*commands):
        found = [SimpleNamespace(info={"cmdline": command}) for command in commands]
        monkeypatch.setattr(psutil, "process_iter", lambda _: iter(found))

    return run


def test_the_file_is_that_of_the_autoscaler_of_this_ray(processes, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("max_workers: 3\navailable_node_types: {gpu: {resources: {GPU: 1}}}\n")
    other = tmp_path / "other.yaml"
    processes(
        None,
        [sys.executable, "-u", "x/monitor.py", "--gcs-address=10.0.0.1:7000", f"--autoscaling-config={other}"],
        [sys.executable, "-u", "x/monitor.py", "--gcs-address=10.0.0.1:6379", f"--autoscaling-config={config}"],
    )
    assert read_limits("10.0.0.1:6379") == Limits((MachineType({"GPU": 1}, 3),), 3)
    config.write_text("- no configuration\n")
    assert read_limits("10.0.0.1:6379") == Limits(), "what runs counts alone"
    config.unlink()
    assert read_limits("10.0.0.1:6379") == Limits()
    processes([sys.executable, "-u", "x/monitor.py", "--gcs-address=10.0.0.1:6379"])
    assert read_limits("10.0.0.1:6379") == Limits()


def test_rays_own_names_of_the_autoscaler_are_those_that_are_looked_for(monkeypatch):
    from ray._private import services

    started = []
    monkeypatch.setattr(services, "start_ray_process", lambda command, *_, **__: started.append(command))
    for v2 in (False, True):
        services.start_monitor("10.0.0.1:6379", "logs", autoscaling_config="~/file", autoscaler_v2=v2)
        words = started.pop()
        assert any(word.endswith(autoscaler._MONITOR) for word in words[:4])
        assert f"{autoscaler._CONFIG}~/file" in words
        assert f"{autoscaler._GCS}10.0.0.1:6379" in words


@pytest.fixture
def cluster(monkeypatch):
    def has(nodes, limits):
        found = [{"NodeID": str(number), "Alive": True, "Resources": one} for number, one in enumerate(nodes)]
        monkeypatch.setattr(ray, "nodes", lambda: found)
        monkeypatch.setattr(
            ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="here:1", get_node_id=lambda: "0")
        )
        monkeypatch.setattr("llamafarm_ray.capacity.cluster.read_limits", lambda _: limits)
        _limits_of.cache_clear()

    yield has
    _limits_of.cache_clear()


def test_a_head_alone_has_what_its_autoscaler_may_start(cluster):
    cluster([HEAD], Limits((MachineType({"CPU": 16}, 4), MachineType({"CPU": 48, "GPU": 4}, 4)), 6))
    assert [one.is_running for one in machines()] == [True] + [False] * 6
    assert (total("GPU"), total("CPU")) == (16, 4 * 48 + 2 * 16), "machines with GPUs first, six in all"
    assert not is_on_one_machine()


def test_machines_that_run_already_are_not_counted_twice(cluster):
    large = {"CPU": 48.0, "GPU": 4.0}
    limits = Limits((MachineType(large, 2), MachineType({"CPU": 16}, 4)), 4)
    cluster([HEAD, large | {"node:1.2.3.4": 1.0}], limits)
    assert total("GPU") == 8
    assert len(machines()) == 1 + 4


def test_without_an_autoscaler_it_is_what_runs(cluster):
    cluster([HEAD | {"CPU": 4.0}], Limits())
    assert (total("CPU"), total("GPU"), is_on_one_machine()) == (4, 0, True)
