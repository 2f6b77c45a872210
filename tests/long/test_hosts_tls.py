"""docs/operations.md's TLS between nodes, on machines of namespaces."""

import subprocess
from pathlib import Path

import pytest
import yaml
from hosts import BUCKET, GATEWAY, HOSTS, ROOT, S3_PORT, hosts, why_not
from hosts_cluster import CLUSTER, TO_PIPE, HostsCluster
from s3 import s3_on
from tiny_model import make_tiny_model

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

FOLDER = Path.home() / ".ray" / "tls"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster whose nodes have certificates."""
    if reason := why_not():
        pytest.skip(reason)
    with hosts() as machines, s3_on(GATEWAY, S3_PORT) as files:
        files.mkdir(BUCKET)
        made = HostsCluster(machines, files, described=str(Path.home() / "tls.yaml"))
        made.fill_bucket(make_tiny_model(tmp_path_factory.mktemp("model") / "base"))
        nodes = [address for name, address in HOSTS.items() if name != "laptop"]
        certificates = machines["laptop"].run("bash", "cluster/tls.sh", str(FOLDER), *nodes)
        assert certificates.returncode == 0, certificates.stdout
        described = yaml.safe_load((ROOT / CLUSTER).read_text(encoding="utf-8"))
        described["file_mounts"]["~/.ray/tls"] = "~/.ray/tls"
        (machines["laptop"].home / "tls.yaml").write_text(yaml.safe_dump(described))
        made.up()
        with made.dashboard():
            yield made


def handshake(host, address, port, *more):
    """Speak TLS to a port from a node; returns what openssl says."""
    command = ["openssl", "s_client", "-connect", f"{address}:{port}", "-alpn", "h2", "-brief", "-tls1_2"]
    return host.run(
        "timeout",
        "10",
        *command,
        "-verify_return_error",
        "-verify_ip",
        address,
        "-CAfile",
        str(FOLDER / "ca.crt"),
        *more,
    ).stdout


def test_the_head_and_each_nodes_raylet_show_a_certificate_and_want_one(cluster):
    head = cluster.machines["head"]
    own = ["-cert", str(FOLDER / "node.crt"), "-key", str(FOLDER / "node.key")]
    ports = cluster.ports()
    assert len(ports) == 3
    for address, port in [(HOSTS["head"], 6379), *ports.items()]:
        assert "Verification: OK" in handshake(head, address, port, *own), (address, port)
        assert "CONNECTION ESTABLISHED" not in handshake(head, address, port), "without a certificate of its own"


def test_who_has_the_token_and_no_certificate_does_not_get_in(cluster):
    files = {"CA_CERT": "ca.crt", "SERVER_CERT": "node.crt", "SERVER_KEY": "node.key"}
    sealed = {"RAY_USE_TLS": "1", **{f"RAY_TLS_{name}": str(FOLDER / file) for name, file in files.items()}}
    command = ["timeout", "60", "ray", "health-check", "--address", f"{HOSTS['head']}:6379"]
    head = cluster.machines["head"]
    assert head.run(*command, RAY_AUTH_MODE="token", **sealed).returncode == 0
    assert head.run(*command, RAY_AUTH_MODE="token").returncode != 0


def test_a_job_trains_on_both_workers(cluster):
    more = ["--set=fine_tuning.distributed.workers=2", "--set=fine_tuning.distributed.nodes=2"]
    done = subprocess.run(
        cluster.job("sealed", *more, "--set=fine_tuning.training.max_steps=2"), check=False, **TO_PIPE
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert '"sealed' in cluster.models()
