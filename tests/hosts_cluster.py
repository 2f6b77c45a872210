"""README's cluster on the machines of `hosts`: a bucket with a tiny base model, `ray up`, jobs, `serve deploy`."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import yaml
from hosts import BUCKET, CLIENT, FOLDER, GATEWAY, HOSTS, NODE_ENV, ROOT, S3_PORT, Host, hosts, why_not
from patience import patience
from readme_commands import exports, readme
from s3 import s3_on
from tiny_model import make_tiny_model

__all__ = [
    "BASE",
    "CLUSTER",
    "HOME",
    "SHARED",
    "TO_PIPE",
    "WORKERS",
    "HostsCluster",
    "Load",
    "readme_cluster",
    "report",
    "wait_for",
]

CLUSTER = "cluster/namespaces.yaml"
HOME = f"s3://{BUCKET}/home"
BASE = f"s3://{BUCKET}/base"
SHARED = FOLDER / "shared"
"""Folder that all machines see at the same path."""
WORKERS = ("worker-1", "worker-2")
PORT = 8000
BODY = {"prompt": "The capital of France", "max_tokens": 8, "temperature": 0}
TO_PIPE: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.STDOUT,
    "text": True,
}


@contextlib.contextmanager
def readme_cluster(folder: Path) -> Iterator[HostsCluster]:
    """Run the cluster of README's commands for the time of a block, its dashboard led to the laptop.

    Args:
        folder: for the tiny model.
    """
    if reason := why_not():
        pytest.skip(reason)
    with hosts() as machines, s3_on(GATEWAY, S3_PORT) as files:
        files.mkdir(BUCKET)
        SHARED.mkdir()
        made = HostsCluster(machines, files)
        made.fill_bucket(make_tiny_model(folder / "base"))
        made.up()
        with made.dashboard():
            yield made


def report(what: str, seconds: float) -> None:
    print(f"{what}: {seconds:.0f} s", flush=True)  # noqa: T201


def wait_for(condition: Callable[[], object], timeout_s: float, said: Callable[[], object] = str) -> float:
    """Wait for a condition, longer on a busy machine; returns the seconds that it took."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < patience(timeout_s / 2), f"not within {waited:.0f} s: {said()}"
        time.sleep(1)
    return time.monotonic() - began


@dataclass
class HostsCluster:
    """The machines as a user's: commands are typed on the laptop.

    Args:
        machines: by name.
        files: the file system that the bucket is in.
        key: the token of the registry's one principal.
        described: the file that `ray up` takes.
    """

    machines: dict[str, Host]
    files: Any
    key: str = ""
    described: str = CLUSTER

    def fill_bucket(self, base: Path) -> None:
        """Put a base model into the bucket and a principal into the registry; nodes know its token from their file."""
        for path in base.iterdir():
            self.files.put_file(str(path), f"{BUCKET}/base/{path.name}")
        reached = dict(line.split("=", 1) for line in NODE_ENV.splitlines())
        add = ["llamafarm", "registry", "principal", "add", "team", "--role", "admin", "--home", HOME, "--json"]
        added = self.machines["laptop"].run(*add, **reached)
        assert added.returncode == 0, added.stdout
        self.key = json.loads(added.stdout[added.stdout.index("{") :])["token"]
        for name in ("head", *WORKERS):
            with (self.machines[name].home / ".llamafarm.env").open("a") as file:
                file.write(f"LLAMAFARM_TOKEN={self.key}\n")

    def up(self) -> None:
        """`ray up`, until all nodes are there."""
        token = self.machines["laptop"].run(*readme("ray get-auth-token"))
        assert token.returncode == 0, token.stdout
        began = time.monotonic()
        up = self.typed(*readme("ray up", file=self.described), "--yes")
        assert up.returncode == 0, up.stdout[-4000:]
        report("ray up returned", time.monotonic() - began)
        wait_for(lambda: self.nodes() == 3, 240, lambda: f"{self.nodes()} nodes\n{up.stdout[-2000:]}")
        report("ray up: all nodes are there", time.monotonic() - began)

    @contextlib.contextmanager
    def dashboard(self) -> Iterator[None]:
        """`ray dashboard`, which leads the job server to the laptop."""
        command = self.machines["laptop"].command(*readme("ray dashboard", file=self.described), **exports())
        silent = subprocess.DEVNULL
        forward = subprocess.Popen(command, stdin=silent, stdout=silent, stderr=silent)
        try:
            wait_for(lambda: "200" in self._asked("laptop", "/api/version", "-o/dev/null", "-w%{http_code}"), 60)
            yield
        finally:
            forward.kill()
            forward.wait()

    def typed(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the laptop to its end."""
        return self.machines["laptop"].run(*words, **exports())

    def down(self) -> subprocess.CompletedProcess[str]:
        """`ray down`."""
        return self.typed(*readme("ray down", file=self.described), "--yes")

    def running(self) -> list[str]:
        """Return the processes of Ray and of HAProxy on the nodes."""
        lines = [line for name in ("head", *WORKERS) for line in self.machines[name].processes()]
        return [line for line in lines if "sshd" not in line and ("ray" in line or "haproxy" in line)]

    def nodes(self) -> int:
        """Return how many nodes the cluster counts as alive."""
        return len(self.ports())

    def ports(self) -> dict[str, int]:
        """Return the port of each living node's raylet, by address; none while the dashboard says nothing."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found = [
                node["raylet"] for node in json.loads(self._asked("head", "/nodes?view=summary"))["data"]["summary"]
            ]
            alive = [node for node in found if node["state"] == "ALIVE"]
            return {node["nodeManagerAddress"]: node["nodeManagerPort"] for node in alive}
        return {}

    def _asked(self, name: str, path: str, *options: str) -> str:
        ask = f'curl -s -m 10 "$@" -H "Authorization: Bearer $(cat ~/.ray/auth_token)" "http://127.0.0.1:8265{path}"'
        return self.machines[name].run("sh", "-c", ask, "sh", *options).stdout

    def job(self, name: str, *more: str) -> list[str]:
        """Return the command line of README's job, on the tiny model and both workers."""
        words = [*readme("ray job submit", model=BASE), f"--set=name={name}"]
        words += ["--set=fine_tuning.distributed.cpus_per_worker=1", *more]
        return self.machines["laptop"].command(*words, **exports(), PYTHONUNBUFFERED="1")  # its log is followed

    def script(self, name: str, *more: str) -> list[str]:
        """Return the command line of README's job with another script of `jobs/`, and its options."""
        words = readme("ray job submit", model=BASE)
        return self.machines["laptop"].command(
            *words[: words.index("--") + 1], "python", f"jobs/{name}.py", *more, **exports()
        )

    def tasks(self) -> dict[str, str]:
        """Return the node of each task that has ended, by the task's id."""
        found = json.loads(self._asked("head", "/api/v0/tasks?limit=10000"))["data"]["result"]["result"]
        return {one["task_id"]: one["node_id"] for one in found if one["state"] == "FINISHED" and one["node_id"]}

    def workers(self) -> set[str]:
        """Return the ids of the nodes that have CPUs."""
        found = json.loads(self._asked("head", "/api/v0/nodes?limit=100&detail=true"))["data"]["result"]["result"]
        return {one["node_id"] for one in found if one["state"] == "ALIVE" and one["resources_total"].get("CPU")}

    @contextlib.contextmanager
    def job_running(self, log: Path, name: str, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a job for the time of a block, which says in `log` what it does."""
        with log.open("w") as file:
            process = subprocess.Popen(self.job(name, *more), stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def checkpoints(self) -> list[str]:
        """Return the manifests of whole checkpoints in the bucket."""
        self.files.invalidate_cache()
        return [path for path in self.files.find(f"{BUCKET}/home/checkpoints") if path.endswith("/checkpoint.json")]

    def models(self, name: str = "head") -> str:
        """Return what is registered, as JSON, asked for on a node."""
        return self.on_node(name, "llamafarm models list --json").stdout

    def on_node(self, name: str, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell's command on a node, with the environment of its processes."""
        return self.machines[name].run("bash", "-c", f". ~/.bashrc; set -a; . ~/.llamafarm.env; {command}")

    def serve(self, **deployment: Any) -> None:
        """`serve deploy` of serve_configs/gpu.yaml, with this cluster's home and model, on CPUs; until it answers."""
        described = yaml.safe_load((ROOT / "serve_configs" / "gpu.yaml").read_text(encoding="utf-8"))
        (application,) = described["applications"]
        application["args"] |= {"home": HOME, "base_model": BASE}
        application["args"]["deployment"] |= {
            "resources": {"cpu": 1},
            "max_loras": 2,
            "max_lora_rank": 16,
            "max_model_len": 256,
            **deployment,
        }
        (self.machines["laptop"].home / "serve.yaml").write_text(yaml.safe_dump(described))
        began = time.monotonic()
        done = self.typed(*readme("serve deploy", config=str(Path.home() / "serve.yaml")))
        assert done.returncode == 0, done.stdout[-4000:]
        wait_for(lambda: self.status() == 200, 300, self.serving)
        report("serve deploy: answers", time.monotonic() - began)

    def serving(self) -> str:
        """Return what `serve status` says."""
        return self.typed("serve", "status").stdout[-3000:]

    def replicas(self) -> int:
        """Return how many replicas of the base model run."""
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            said = json.loads(self._asked("head", "/api/serve/applications/"))
            found = said["applications"]["llamafarm"]["deployments"]["base"]["replicas"]
            return sum(one["state"] == "RUNNING" for one in found)
        return 0

    def status(self, host: str = "head", model: str = "base") -> int:
        """Return the status of a request, asked from outside of the machines; 0 where nothing answers."""
        try:
            return self.asked(model, host).status_code
        except httpx.TransportError:
            return 0

    def asked(self, model: str = "base", host: str = "head", *, key: str | None = None, timeout_s: float = 60) -> Any:
        """Return the answer to a request."""
        shown = self.key if key is None else key
        headers = {"Authorization": f"Bearer {shown}"} if shown else {}
        url = f"http://{HOSTS[host]}:{PORT}/v1/completions"
        with httpx.Client(transport=httpx.HTTPTransport(local_address=CLIENT), timeout=timeout_s) as client:
            return client.post(url, json={**BODY, "model": model}, headers=headers)


class Load:
    """Clients that ask without a pause until the block ends, each on connections of its own.

    Attributes:
        failed: send time and error of each request that failed (seconds of the monotonic clock).
        answered: send time, duration and text of each request that was answered.
    """

    def __init__(self, cluster: HostsCluster, num_clients: int = 4, host: str = "head") -> None:
        self._cluster = cluster
        self._host = host
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(num_clients)]
        self.failed: list[tuple[float, str]] = []
        self.answered: list[tuple[float, float, str]] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def timeline(self, began: float) -> str:
        """Return the numbers of failed and of answered requests, in steps of five seconds since ``began``."""
        failed = Counter((int(at - began) // 5 * 5, said[:80]) for at, said in self.failed)
        answered = Counter(int(at - began) // 5 * 5 for at, _, _ in self.answered)
        return f"answered: {sorted(answered.items())}; failed: {sorted(failed.items())}"

    def _ask_on(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                answer = self._cluster.asked(host=self._host)
                if answer.status_code == 200:
                    text = answer.json()["choices"][0]["text"]
                    self.answered.append((began, time.monotonic() - began, text))
                    continue
                self.failed.append((began, f"{answer.status_code} {answer.text[:200]}"))
            except httpx.HTTPError as error:
                self.failed.append((began, repr(error)))
            time.sleep(0.2)
