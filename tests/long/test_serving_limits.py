"""A key's limits hold at all replicas together."""

import time

import httpx
import pytest
from tiny_model import make_tiny_model

from llamafarm_ray.config import parse_config
from llamafarm_ray.registry import open_registry

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

A_MINUTE = 12
"""Requests that a key may send."""


def test_what_a_key_took_at_one_replica_it_does_not_get_again_at_the_other(ray_cluster, tmp_path):
    from llamafarm_ray.clusters.ports import free_port
    from llamafarm_ray.serving.ray_serve.replicas import applications
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.undeploy import undeploy

    base, registry = make_tiny_model(tmp_path / "tiny", hidden_size=64), open_registry(str(tmp_path / "home"))
    wanted = {"engine": "transformers", "replicas": 2, "port": free_port()}
    wanted["limits"] = {"requests_per_minute": A_MINUTE}
    running = deploy(parse_config({"base_model": str(base), "deployment": wanted}), registry, ray_cluster)

    def ask():
        body = {"model": "tiny", "prompt": "The", "max_tokens": 1}
        return httpx.post(f"{running.url}/completions", json=body, timeout=60).status_code

    deadline = time.monotonic() + 120
    while sum(replica.state == "RUNNING" for replica in applications()[0].replicas) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    began = time.monotonic()
    statuses = []
    while time.monotonic() < began + 30:  # six times what comes in meanwhile, by turns at both
        statuses.append(ask())
        time.sleep(0.0 if len(statuses) < A_MINUTE else 0.8)
    told = [replica.activity.seen for replica in applications()[0].replicas]
    assert all(any(seen.minute.requests for seen in of_one.values()) for of_one in told), told  # both were asked
    came_in = A_MINUTE * (1 + (time.monotonic() - began) / 60)
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= A_MINUTE
    assert statuses.count(200) <= came_in + A_MINUTE / 2, statuses  # alone each would give a minute's worth
    undeploy(registry, ray_cluster)
