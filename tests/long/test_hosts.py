"""README's cluster, on machines of namespaces: `ray up`, a job on all workers, `ray down`."""

import socket
import subprocess
import time

import pytest
from hosts import BUCKET, GATEWAY, HOSTS, S3_PORT, hosts, why_not
from s3 import s3_on
from tiny_model import make_tiny_model

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

CLUSTER = "cluster/namespaces.yaml"
TO_PIPE = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
WORKERS = ("worker-1", "worker-2")
ON_BOTH = [
    "--set=fine_tuning.distributed.workers=2",
    "--set=fine_tuning.distributed.nodes=2",
    "--set=fine_tuning.distributed.cpus_per_worker=1",
    "--set=fine_tuning.training.checkpoint_every_steps=2",
]


@pytest.fixture(scope="module")
def machines():
    """The machines, and a bucket that all of them reach, which holds a tiny base model."""
    if reason := why_not():
        pytest.skip(reason)
    with hosts() as made, s3_on(GATEWAY, S3_PORT) as files:
        files.mkdir(BUCKET)
        yield made, files


@pytest.fixture(scope="module")
def cluster(machines, tmp_path_factory):
    """The cluster after README's commands, with its dashboard led to the laptop."""
    made, files = machines
    for path in make_tiny_model(tmp_path_factory.mktemp("model") / "base").iterdir():
        files.put_file(str(path), f"{BUCKET}/base/{path.name}")
    laptop = made["laptop"]
    token = laptop.run("ray", "get-auth-token", "--generate")
    assert token.returncode == 0, token.stdout
    began = time.monotonic()
    up = laptop.run("ray", "up", CLUSTER, "--yes")
    assert up.returncode == 0, up.stdout[-4000:]
    wait_for(lambda: all("raylet" in "\n".join(made[name].processes()) for name in WORKERS), 180)
    print(f"ray up: {time.monotonic() - began:.0f} s to all nodes")  # noqa: T201
    forward = subprocess.Popen(
        laptop.command("ray", "dashboard", CLUSTER), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=None
    )
    wait_for(lambda: "200" in job_server(laptop), 60)
    yield made
    forward.kill()
    forward.wait()


def wait_for(condition, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(1)


def job_server(laptop):
    code = (
        "import httpx, pathlib; token = pathlib.Path('~/.ray/auth_token').expanduser().read_text().strip();"
        "headers = {'Authorization': f'Bearer {token}'};"
        "print(httpx.get('http://127.0.0.1:8265/api/version', headers=headers).status_code)"
    )
    return laptop.run("python", "-c", code).stdout


def submit(laptop, name, *more):
    """Return the command line of README's job, on the tiny model and both workers."""
    words = ["ray", "job", "submit", "--working-dir", ".", "--", "python", "jobs/train.py"]
    words += ["--config", "jobs/configs/basic_lora.yaml", f"--set=name={name}", f"--set=base_model=s3://{BUCKET}/base"]
    return laptop.command(*words, *ON_BOTH, *more, RAY_AUTH_MODE="token")


def test_the_dashboard_is_on_the_heads_loopback_alone(cluster):
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((HOSTS["head"], 8265), timeout=5)


def test_a_job_trains_on_both_workers_and_is_registered(cluster, machines):
    done = subprocess.run(
        submit(cluster["laptop"], "both", "--set=fine_tuning.training.max_steps=6"), check=False, **TO_PIPE
    )
    assert done.returncode == 0, done.stdout[-4000:]
    _, files = machines
    assert files.find(f"{BUCKET}/home")
    listed = cluster["head"].run("bash", "-ic", "set -a; . ~/.llamafarm.env; llamafarm models list --json")
    assert '"both' in listed.stdout, listed.stdout
    for name in WORKERS:  # the run's folder was on the worker's own disk
        assert not cluster[name].run("find", "/root/llamafarm-jobs", "-name", "*.safetensors").stdout.startswith("/")


def test_ray_down_leaves_nothing_running(cluster):
    down = cluster["laptop"].run("ray", "down", CLUSTER, "--yes")
    assert down.returncode == 0, down.stdout[-4000:]

    def left():
        return [line for name in ("head", *WORKERS) for line in cluster[name].processes() if "sshd" not in line]

    began = time.monotonic()
    wait_for(lambda: not [line for line in left() if "ray" in line or "haproxy" in line], 120)
    print(f"ray down: nothing is left after {time.monotonic() - began:.0f} s")  # noqa: T201
