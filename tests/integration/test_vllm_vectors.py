"""An embedding model and its adapters on vLLM: their vectors are those of plain transformers and peft."""

import base64
import json

import httpx
import numpy as np
import pytest
import torch
from method_models import randomise, reload, trained, wrapped
from tiny_model import make_tiny_model, make_tiny_tokenizer

from llamafarm_ray.models.embedding import pooled
from llamafarm_ray.models.sentence_files import write_sentence_transformers_files
from llamafarm_ray.workflows.versions.register import Registration, register

TOKENS = [[5, 17, 42, 8], [9, 3]]
WIDTH = 64


def adapter_of(base, folder, pooling):
    method, model = wrapped(base, "lora", task="embedding")
    randomise(model)
    folder.mkdir()
    method.save(model, trained(model), folder)
    write_sentence_transformers_files(folder, width=WIDTH, max_length=64, pooling=pooling)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The base model, the adapter that is deployed, and one that was trained to be read at the first token."""
    from transformers import AutoModel

    folder = tmp_path_factory.mktemp("vectors")
    base = folder / "vectors"
    AutoModel.from_pretrained(make_tiny_model(folder / "tiny", hidden_size=WIDTH)).save_pretrained(base)
    make_tiny_tokenizer().save_pretrained(base)
    write_sentence_transformers_files(base, width=WIDTH, max_length=64, pooling="mean")
    modules = json.loads((base / "modules.json").read_text())[:-1]  # without Normalize, which transformers does anyway
    (base / "modules.json").write_text(json.dumps(modules))
    return base, adapter_of(base, folder / "finder", "mean"), adapter_of(base, folder / "other", "cls")


@pytest.fixture(scope="module")
def url(served, models):
    from ray import serve

    from llamafarm_ray.serving.application import build
    from llamafarm_ray.serving.deployment.rollout_actor import stop_controller

    base, finder, other = models
    register(served.registry, Registration(finder, name="finder", alias="production"))
    register(served.registry, Registration(other, name="other"))
    deployment = {"engine": "vllm", "max_lora_rank": 16, "adapters": ["finder@production"]}
    args = {"home": served.registry.home.uri, "base_model": str(base), "deployment": deployment}
    serve.run(build(args), name="vectors", route_prefix="/vectors")
    yield f"{served.root}/vectors/v1"
    serve.delete("vectors")  # and wait: until it is gone, `auto` still sends requests there
    stop_controller(served.registry.home.uri, "vectors")


def ask(url, model, **more):
    return httpx.post(f"{url}/embeddings", json={"model": model, "input": TOKENS, **more}, timeout=60)


def expected(model):
    vectors = []
    for tokens in TOKENS:
        ids = torch.tensor([tokens])
        with torch.no_grad():
            hidden = model(input_ids=ids).last_hidden_state
        vectors.append(pooled(hidden, torch.ones_like(ids), "mean")[0].numpy())
    return np.stack(vectors)


def test_vectors_are_those_of_plain_transformers_and_peft(url, models):
    from transformers import AutoModel

    base, finder, _ = models
    plain, adapted = AutoModel.from_pretrained(base, dtype=torch.float32).eval(), reload(base, finder, task="embedding")
    found = {}
    for name, model in (("vectors", plain), ("finder", adapted)):
        response = ask(url, name)
        assert response.status_code == httpx.codes.OK, response.text
        found[name] = np.array([one["embedding"] for one in response.json()["data"]])
        np.testing.assert_allclose(found[name], expected(model), atol=1e-5)
        assert response.json()["usage"]["prompt_tokens"] == 6
    assert np.abs(found["vectors"] - found["finder"]).max() > 1e-2
    assert response.headers["x-llamafarm-model"] == "finder:1.0.0"
    assert response.json()["model"].startswith("finder:1.0.0")

    [packed, _] = ask(url, "finder", encoding_format="base64").json()["data"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(packed["embedding"]), "<f4"), found["finder"][0])


def test_auto_knows_that_it_gives_vectors(url):
    assert ask(url, "auto").headers["x-llamafarm-model"].startswith(("finder", "vectors"))


def test_it_writes_no_text(url):
    asked = {"completions": {"prompt": "a"}, "chat/completions": {"messages": [{"role": "user", "content": "a"}]}}
    for route, body in asked.items():
        response = httpx.post(f"{url}/{route}", json={"model": "finder", **body}, timeout=30)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "body",
    [
        {"input": "a", "encoding_format": "bytes"},
        {"input": [{"role": "user", "content": "a"}]},
        {"input": [[{"role": "user", "content": "a"}]]},
        {"messages": [{"role": "user", "content": "a"}]},
        {"input": []},
        {"input": [[]]},
    ],
)
def test_what_nobody_could_count_is_refused(url, body):
    response = httpx.post(f"{url}/embeddings", json={"model": "finder", **body}, timeout=30)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_input")
    assert "must be" in response.json()["error"]["message"]


def test_an_adapter_that_is_pooled_otherwise_is_refused(url):
    response = ask(url, "other")
    assert response.status_code in range(400, 504)
    assert "pooled otherwise than its base model" in response.json()["error"]["message"]
