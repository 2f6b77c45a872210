"""Two replicas and more adapters than one holds: each adapter is loaded on one of them, a popular one on both."""

import httpx
import pytest
from adapters import make_adapters
from tiny_model import make_tiny_model

from llamafarm_ray.workflows.deployments.deployed import APPLICATION

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

NUM_COLD = 40
NUM_ROUNDS = 3
HOT = "hot:1.0.0"


@pytest.fixture(scope="module")
def url(ray_cluster, tmp_path_factory):
    """The endpoint. What it serves is registered once it runs, so that nothing is loaded before it is asked for."""
    from llamafarm_ray.clusters.ports import free_port
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.undeploy import undeploy
    from llamafarm_ray.workflows.versions.register import Registration, register

    folder = tmp_path_factory.mktemp("affinity")
    base = make_tiny_model(folder / "tiny", hidden_size=128)
    registry = open_registry(str(folder / "home"))
    deployment = {"port": free_port(), "replicas": 2, "max_loras": 4, "max_lora_rank": 8}
    deployed = deploy(parse_config({"base_model": str(base), "deployment": deployment}), registry, ray_cluster)
    hot, *cold = make_adapters(base, folder / "adapters", 1 + NUM_COLD)
    register(registry, Registration(hot, name="hot"))
    for number, adapter in enumerate(cold):
        register(registry, Registration(adapter, name=f"cold-{number}"))
    yield deployed.url
    undeploy(registry, ray_cluster)


def ask(client, ref):
    response = client.post("/completions", json={"model": ref, "prompt": "The", "max_tokens": 2})
    assert response.status_code == 200, response.text
    assert response.headers["x-llamafarm-model"] == ref


def loaded_by_replica():
    """The versions that each replica ever loaded."""
    from llamafarm_ray.serving.ray_serve.replicas import num_loads

    return [{name.partition("#")[0] for name in loads} for loads in num_loads(APPLICATION)]


def test_each_adapter_is_loaded_on_one_replica_and_a_popular_one_on_both(url):
    cold = [f"cold-{number}:1.0.0" for number in range(NUM_COLD)]
    with httpx.Client(base_url=url, timeout=120) as client:
        for _ in range(
            20
        ):  # the first requests of all: it has the router's whole window, which then knows both replicas
            ask(client, HOT)
        assert [HOT in loaded for loaded in loaded_by_replica()] == [True, True]
        for _ in range(NUM_ROUNDS):
            for ref in cold:
                ask(client, ref)
                ask(client, HOT)
    one, other = (loaded & set(cold) for loaded in loaded_by_replica())
    assert one | other == set(cold)
    assert len(one & other) <= NUM_COLD // 10, f"{sorted(one & other)} are on both"
    assert min(len(one), len(other)) >= NUM_COLD // 5
