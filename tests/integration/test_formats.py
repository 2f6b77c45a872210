"""GGUF and ONNX files on Ray Serve behind HAProxy: deployed, asked by OpenAI's client, swapped for other files."""

import httpx
import openai
import pytest
import torch
from gguf_files import write_gguf
from onnx_files import export_decoder
from tiny_model import make_tiny_model

pytestmark = pytest.mark.long  # each has Serve to itself, on a port of its own

PROMPT = "The capital of France"
NUM_TOKENS = 12
WRITERS = {"gguf": lambda base, folder: write_gguf(base, folder / "model.gguf"), "onnx": export_decoder}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return [make_tiny_model(folder / f"tiny-{seed}", seed=seed) for seed in (3, 4)]


@pytest.fixture(scope="module", params=WRITERS)
def deployment(request, ray_cluster, bases, tmp_path_factory):
    """``bot`` has two versions: ``production`` is the first one, which is deployed, and the other is registered."""
    from ray import serve

    from llamafarm_ray.clusters.ports import free_port
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.undeploy import undeploy
    from llamafarm_ray.workflows.versions.register import Registration, register, stated

    folder = tmp_path_factory.mktemp(request.param)
    registry = open_registry(str(folder / "home"))
    for number, base in enumerate(bases):
        WRITERS[request.param](base, folder / str(number))
        asked = Registration(
            folder / str(number),
            name="bot",
            alias=None if number else "production",
            facts=stated(base_model=str(bases[0])),
        )
        register(registry, asked)
    serve.shutdown()  # another module's may listen at another port
    wanted = {"base_model": "bot:1.0.0", "deployment": {"port": free_port(), "adapters": ["bot@production"]}}
    deployed = deploy(parse_config(wanted), registry, ray_cluster)
    yield deployed, registry
    undeploy(registry, ray_cluster)
    serve.shutdown()


def oracle(base):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(base))
    inputs = tokenizer(PROMPT, return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    out = model.generate(**inputs, max_new_tokens=NUM_TOKENS, do_sample=False)
    text = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


def test_each_version_answers_as_transformers_does_and_production_moves(deployment, bases):
    from llamafarm_ray.workflows.deployments.deployed import swap_adapter

    deployed, registry = deployment
    body = {"model": "bot@production", "prompt": PROMPT, "max_tokens": NUM_TOKENS, "temperature": 0}
    said = []
    for version, base in zip(("bot:1.0.0", "bot:1.1.0"), bases, strict=True):
        swap_adapter(registry, version, "production")
        response = httpx.post(f"{deployed.url}/completions", json=body, timeout=60)
        assert response.status_code == 200, response.text
        assert response.headers["x-llamafarm-model"] == version
        assert response.headers["x-llamafarm-digest"] == registry.resolve(version).registered.manifest
        said.append(response.json()["choices"][0]["text"])
        assert said[-1] == oracle(base)
    assert said[0] != said[1]


def test_openais_client_streams_chats_and_scores(deployment):
    deployed, _ = deployment
    client = openai.OpenAI(base_url=deployed.url, api_key="none")
    assert "bot:1.1.0" in [model.id for model in client.models.list()]
    asked = {"model": "bot:1.0.0", "max_tokens": 8, "temperature": 0}
    chat = [{"role": "user", "content": "A llama?"}]
    whole = client.chat.completions.create(messages=chat, logprobs=True, top_logprobs=2, **asked).choices[0]
    pieces = client.chat.completions.create(messages=chat, stream=True, **asked)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.message.content
    assert whole.logprobs is not None
    assert all(len(token.top_logprobs) == 2 for token in whole.logprobs.content)
    scored = client.completions.create(prompt=PROMPT, echo=True, logprobs=1, **{**asked, "max_tokens": 0}).choices[0]
    assert scored.text == PROMPT
    assert scored.logprobs is not None
    assert all(logprob < 0 for logprob in scored.logprobs.token_logprobs[1:])
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(messages=chat, tools=[{"type": "function", "function": {"name": "f"}}], **asked)
