"""README's cluster, on machines of namespaces: `ray up`, a job on all workers, `serve deploy`, `ray down`."""

import socket
import subprocess
import time

import pytest
from hosts import HOSTS, left
from hosts_cluster import TO_PIPE, WORKERS, readme_cluster, report, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ON_BOTH = ["--set=fine_tuning.distributed.workers=2", "--set=fine_tuning.distributed.nodes=2"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The cluster after README's commands, with its dashboard led to the laptop; nothing is left of it."""
    with readme_cluster(tmp_path_factory.mktemp("model")) as made:
        yield made
    assert left() == []


def test_the_dashboard_is_on_the_heads_loopback_alone(cluster):
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((HOSTS["head"], 8265), timeout=5)


def test_a_job_trains_on_both_workers_and_is_registered(cluster):
    more = ["--set=fine_tuning.training.checkpoint_every_steps=2", "--set=fine_tuning.training.max_steps=6"]
    began = time.monotonic()
    done = subprocess.run(cluster.job("both", *ON_BOTH, *more), check=False, **TO_PIPE)
    assert done.returncode == 0, done.stdout[-4000:]
    report("a job trained 6 steps on both workers", time.monotonic() - began)
    assert '"both' in cluster.models()
    assert cluster.checkpoints() == []  # the output took their place
    for name in WORKERS:  # the run's folder was on the worker's own disk
        found = cluster.machines[name].run("sh", "-c", "find ~/llamafarm-jobs -name '*.safetensors' 2>/dev/null")
        assert found.stdout == ""


def test_serve_deploy_serves_the_base_and_what_was_trained_by_a_replica_on_each_worker(cluster):
    cluster.serve(adapters=["both:1.0.0"], replicas=2)
    answer = cluster.asked("both")
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-llamafarm-model"] == "both:1.0.0"
    assert cluster.asked(key="").status_code == 401
    assert wait_for(lambda: cluster.replicas() == 2, 240, cluster.serving) is not None
    for name in HOSTS.keys() - {"laptop"}:  # each node's proxy
        wait_for(lambda name=name: cluster.status(name, "both") == 200, 60)


def test_ray_down_leaves_nothing_running(cluster):
    down = cluster.down()
    assert down.returncode == 0, down.stdout[-4000:]
    report("ray down: nothing is left", wait_for(lambda: not cluster.running(), 120, cluster.running))
