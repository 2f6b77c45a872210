"""A bottleneck adapter, which vLLM can't serve, on Ray Serve behind HAProxy: deployed, asked over HTTP, swapped."""

import httpx
import pytest
import torch
from method_models import randomise, reload, trained, wrapped
from tiny_model import make_tiny_model

pytestmark = pytest.mark.long  # it has Serve to itself, on a port of its own

PROMPT = "The capital of France"
NUM_TOKENS = 12


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Two versions of a bottleneck adapter and their base."""
    folder = tmp_path_factory.mktemp("engines")
    base = make_tiny_model(folder / "tiny", seed=3)
    for number in range(2):
        method, model = wrapped(base, "adapter")
        randomise(model)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.mul_(number + 1)
        (folder / str(number)).mkdir()
        method.save(model, trained(model), folder / str(number))
    return base, [folder / "0", folder / "1"]


@pytest.fixture(scope="module")
def deployment(ray_cluster, adapters, tmp_path_factory):
    """The first version, ``bot@production``, is deployed; the second one is registered."""
    from ray import serve

    from llamafarm_ray.clusters.ports import free_port
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.undeploy import undeploy
    from llamafarm_ray.workflows.versions.register import Registration, register, stated

    base, folders = adapters
    registry = open_registry(str(tmp_path_factory.mktemp("home")))
    for number, folder in enumerate(folders):
        asked = Registration(
            folder, name="bot", alias="production" if number == 0 else None, facts=stated(method="adapter")
        )
        register(registry, asked)
    serve.shutdown()  # another module's may listen at another port
    config = parse_config(
        {"base_model": str(base), "deployment": {"port": free_port(), "adapters": ["bot@production"]}}
    )
    deployed = deploy(config, registry, ray_cluster)
    yield deployed, registry
    undeploy(registry, ray_cluster)
    serve.shutdown()


def oracle(base, folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(base))
    inputs = tokenizer(PROMPT, return_tensors="pt")
    out = reload(base, folder).generate(**inputs, max_new_tokens=NUM_TOKENS, do_sample=False)
    text = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


def complete(deployed, model, **options):
    body = {"model": model, "prompt": PROMPT, "max_tokens": NUM_TOKENS, "temperature": 0}
    return httpx.post(f"{deployed.url}/completions", json=body, timeout=60, **options)


def test_a_bottleneck_adapter_answers_as_plain_peft_does_and_is_swapped(deployment, adapters):
    from llamafarm_ray.workflows.deployments.deployed import swap_adapter

    deployed, registry = deployment
    base, folders = adapters
    said = []
    for version, folder in zip(("bot:1.0.0", "bot:1.1.0"), folders, strict=True):
        swap_adapter(registry, version, "production")
        response = complete(deployed, "bot@production")
        assert response.status_code == 200, response.text
        assert response.headers["x-llamafarm-model"] == version
        said.append(response.json()["choices"][0]["text"])
        assert said[-1] == oracle(base, folder)
    assert said[0] != said[1]
    assert complete(deployed, "tiny").headers["x-llamafarm-model"] == "tiny"


def test_the_routers_header_is_believed_from_nobody(deployment):
    deployed, _ = deployment
    response = complete(deployed, "bot:1.0.0", headers={"serve_multiplexed_model_id": "bot:1.1.0"})
    assert response.headers["x-llamafarm-model"] == "bot:1.0.0"
