"""A real Prometheus, started as `make monitoring` does, scrapes a running Ray and computes every panel and alert."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
import ray
from patience import wait_until

from llamafarm_ray.clusters.ports import free_port
from llamafarm_ray.registry.remote.actor import registry_actor
from llamafarm_ray.telemetry.catalog import EVERY_METER
from llamafarm_ray.telemetry.meters import RayMeters

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "monitoring"
DASHBOARDS = [json.loads(path.read_text("utf-8")) for path in sorted((FOLDER / "dashboards").iterdir())]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="Prometheus is not installed: apt-get install --no-install-recommends prometheus",
    ),
]


@ray.remote(num_cpus=0)
class Probe:
    """Reports one of each metric, as replicas, runs and builds do."""

    def __init__(self):
        meters = self._meters = RayMeters(EVERY_METER)
        report = {"counter": meters.add, "gauge": meters.set, "histogram": meters.observe}
        for meter in EVERY_METER:
            report[meter.kind](meter.name, 2.0, dict.fromkeys(meter.labels, "probe"))

    async def keep(self):
        await self._meters.keep_gauges()


@pytest.fixture(scope="module")
def prometheus(ray_cluster, tmp_path_factory):
    """The address of a Prometheus for the tests' Ray."""
    folder = tmp_path_factory.mktemp("monitoring")
    discovery = Path(ray.get_runtime_context().get_temp_dir()) / "prom_metrics_service_discovery.json"
    wait_until(discovery.exists, 120, lambda: f"{discovery} is not written")
    port = free_port()
    variables = {"PROMETHEUS_PORT": str(port), "GRAFANA_PORT": str(free_port()), "MONITORING_DATA": str(folder)}
    process = subprocess.Popen(
        ["bash", str(FOLDER / "start.sh"), str(discovery)],
        env=os.environ | variables,
        stdout=(folder / "log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(f"{url}/-/ready"), 120, (folder / "log").read_text)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def answers(url):
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def asked(prometheus, expression):
    response = httpx.get(f"{prometheus}/api/v1/query", params={"query": expression}, timeout=30).json()
    assert response["status"] == "success", (expression, response)
    return response["data"]["result"]


def test_every_metric_is_scraped_and_every_panel_can_be_computed(prometheus, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    actor, probe = registry_actor(str(home)), Probe.remote()
    probe.keep.remote()
    names = {f"ray_{meter.name}{'_bucket' if meter.bounds else ''}" for meter in EVERY_METER}

    def missing():
        return {name for name in names if not asked(prometheus, name)}

    wait_until(lambda: not missing(), 180, missing)
    assert asked(prometheus, "ray_node_cpu_count")
    assert [one["value"][1] for one in asked(prometheus, "ray_llamafarm_training_step")] == ["2"]
    wait_until(lambda: len(asked(prometheus, "ray_llamafarm_registry_sequence")) == 2, 60, lambda: "no registry actor")
    for board in DASHBOARDS:
        for panel in board["panels"]:
            for target in panel["targets"]:
                plain = re.sub(r"\$__(rate_interval|range)", "5m", target["expr"])
                asked(prometheus, re.sub(r"\$\w+", ".*", plain))
    ray.kill(probe)
    ray.kill(actor)


def test_the_rules_are_loaded_and_none_is_broken(prometheus):
    def rules():
        found = httpx.get(f"{prometheus}/api/v1/rules", timeout=30).json()["data"]["groups"]
        return [rule for group in found for rule in group["rules"]]

    wait_until(lambda: rules() and all(rule["health"] == "ok" for rule in rules()), 120, rules)
    assert "RegistryUnreachable" in {rule["name"] for rule in rules()}
