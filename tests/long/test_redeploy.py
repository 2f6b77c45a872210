"""What redeployments and departures leave behind."""

import json
import shutil
import time

import httpx
import pytest
from tiny_model import make_tiny_model

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import DeploymentError
from llamafarm_ray.registry import open_registry

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def test_after_a_failed_redeployment_the_former_configuration_deploys_again(ray_cluster, tmp_path, port):
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.undeploy import undeploy

    base = make_tiny_model(tmp_path / "tiny", hidden_size=128)
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "intermediate_size": config["intermediate_size"] * 2}))
    registry = open_registry(str(tmp_path / "home"))

    def configured(folder):
        return parse_config({"base_model": str(folder), "deployment": {"port": port}})

    running = deploy(configured(base), registry, ray_cluster)
    with pytest.raises(DeploymentError):
        deploy(configured(broken), registry, ray_cluster)
    assert registry.refresh().deployments["llamafarm"].base_model == "tiny"
    again = deploy(configured(base), registry, ray_cluster)
    assert again.url == running.url
    body = {"model": "tiny", "prompt": "The", "max_tokens": 2}
    assert httpx.post(f"{again.url}/completions", json=body, timeout=60).status_code == 200
    undeploy(registry, ray_cluster)


def test_a_router_comes_with_a_second_replica_and_goes_with_it(ray_cluster, tmp_path, port):
    """Redeployed from one replica to as many as needed and back; each time the endpoint goes on to answer."""
    from ray import serve

    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.deployed import APPLICATION
    from llamafarm_ray.workflows.deployments.undeploy import undeploy

    base, registry = make_tiny_model(tmp_path / "tiny", hidden_size=128), open_registry(str(tmp_path / "home"))
    several = {"auto_scaling": {"max_replicas": 2, "target_ongoing_requests": 1000}}
    body = {"model": "tiny", "prompt": "The", "max_tokens": 2}
    forged = {"serve_multiplexed_model_id": "nonsense"}
    for scaling, deployments in (({}, {"tiny"}), (several, {"tiny", "router"}), ({}, {"tiny"})):
        config = parse_config({"base_model": str(base), "deployment": {"port": port, **scaling}})
        deployed = deploy(config, registry, ray_cluster)
        assert set(serve.status().applications[APPLICATION].deployments) == deployments
        for headers in ({}, forged):
            response = httpx.post(f"{deployed.url}/completions", json=body, headers=headers, timeout=60)
            assert response.status_code == 200, response.text
    undeploy(registry, ray_cluster)


def test_an_application_that_serve_deletes_takes_its_controller_along_and_goes_off_the_record(
    ray_cluster, tmp_path, port
):
    from ray import serve

    from llamafarm_ray.serving.deployment.rollout_actor import controller_actor
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.deployed import APPLICATION

    base, registry = make_tiny_model(tmp_path / "tiny", hidden_size=128), open_registry(str(tmp_path / "home"))
    deploy(parse_config({"base_model": str(base), "deployment": {"port": port}}), registry, ray_cluster)
    assert controller_actor(registry.home.uri, APPLICATION) is not None
    serve.delete(APPLICATION)
    deadline = time.monotonic() + 120
    while APPLICATION in registry.refresh().deployments:
        assert time.monotonic() < deadline
        time.sleep(1)
    while True:
        try:
            controller_actor(registry.home.uri, APPLICATION)
        except ValueError:
            break
        assert time.monotonic() < deadline
        time.sleep(1)
