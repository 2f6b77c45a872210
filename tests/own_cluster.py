"""A Ray node of a test's own: its ports, folder and token are nobody else's."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from e2e_tools import BIN, ROOT, agent_ports, environment, running, wait_for

from llamafarm_ray.clusters.ports import free_port

__all__ = ["autoscaling", "joined", "own_cluster"]

_FAKE_HEAD = "f" * 51 + "00000"
"""Id of the head for Ray's fake_multinode, whose machines are nodes of this one."""
_FAKE_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
"""By its path, since Ray's wheel lacks the defaults that its short name asks for."""

_COMMANDS = [
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
]


@contextmanager
def own_cluster(num_cpus=4, autoscaler=None, **variables):
    """Start a node; gives its process and the environment that reaches it. Workers import this folder's modules.

    Args:
        autoscaler: configuration of its autoscaler, without the address of the node.
    """
    folder = Path(tempfile.mkdtemp(prefix="rc-"))
    port, dashboard = free_port(), free_port()
    token = secrets.token_hex(32)
    reaching = environment(
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}", **variables
    )
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", f"--num-cpus={num_cpus}"]
    if autoscaler is not None:
        autoscaler["provider"]["gcs_address"] = f"127.0.0.1:{port}"
        (folder / "autoscaler.yaml").write_text(json.dumps(autoscaler))
        command.append(f"--autoscaling-config={folder / 'autoscaler.yaml'}")
    command += [f"--temp-dir={folder}", f"--dashboard-port={dashboard}", *agent_ports()]
    try:
        with running(command, folder / "start.log", env=reaching, cwd=ROOT) as process:
            headers = {"Authorization": f"Bearer {token}"}
            wait_for(f"http://127.0.0.1:{dashboard}/api/version", process, folder / "start.log", headers=headers)
            yield process, reaching | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def autoscaling(types, max_workers):
    """Start a head without CPUs, whose autoscaler starts nodes on this machine; see `own_cluster`.

    Args:
        types: ``available_node_types`` of the workers.
        max_workers: nodes that it may start.
    """
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    config = {
        "cluster_name": "fake",
        "max_workers": max_workers,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "external",
            "module": _FAKE_PROVIDER,
            "launch_multiple": True,
            "head_node_id": _FAKE_HEAD,
            "disable_node_updaters": True,  # there is no SSH to them
        },
        "available_node_types": {"ray.head.default": head, **types},
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        **{name: [] for name in _COMMANDS},
    }
    return own_cluster(
        0,
        config,
        RAY_FAKE_CLUSTER="1",
        RAY_enable_autoscaler_v2="1",
        RAY_CLOUD_INSTANCE_ID=_FAKE_HEAD,
        AUTOSCALER_UPDATE_INTERVAL_S="1",
    )


@contextmanager
def joined(variables, num_cpus=1):
    """One more node of a cluster, on this machine, for the time of a block; gives its process and its id."""
    folder = Path(tempfile.mkdtemp(prefix="rn-"))
    before = _nodes(variables)
    command = [str(BIN / "ray"), "start", "--block", f"--address={variables['RAY_ADDRESS']}", f"--num-cpus={num_cpus}"]
    command += agent_ports()
    try:
        with running(command, folder / "start.log", env=variables, cwd=ROOT) as process:
            while not (new := _nodes(variables) - before):
                assert process.poll() is None, (folder / "start.log").read_text()
            yield process, new.pop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _nodes(variables):
    """The ids of the nodes that are alive."""
    code = "import ray; ray.init(logging_level='ERROR'); print(*(n['NodeID'] for n in ray.nodes() if n['Alive']))"
    done = subprocess.run([sys.executable, "-c", code], env=variables, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return set(done.stdout.decode().splitlines()[-1].split())
