"""The table of schemes and engines on a CPU: each engine serves what it says with the right numbers, or refuses it."""

import json
import os
import subprocess
import sys
import time

import httpx
import pytest
import torch
from adapters import make_adapter
from tiny_model import make_tiny_model

from llamafarm_ray.models.adapters import load_adapter
from llamafarm_ray.models.loading import linear_layers, load_model
from llamafarm_ray.models.packed_files import VLLM_METHODS, vllm_dtype_on_cpu
from llamafarm_ray.models.quantize.quantization import quantize_model
from llamafarm_ray.models.quantize.schemes import SCHEMES
from llamafarm_ray.serving.optimize.speed import SpeedTrial, measure_speed

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(torch.cuda.is_available(), reason="this is about kernels for CPUs"),
]

SHORT = {"prompt_tokens": 16, "new_tokens": 4, "num_rounds": 1}
PROMPT = list(range(20, 60))
SLOW = "fp8"
SCHEMES_OF_SAFETENSORS = [name for name, one in SCHEMES.items() if one.family != "gguf"]
SCRIPT = """
import gc, json, sys
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

def told(model, dtype, adapter, prompt):
    engine = LLM(model, max_model_len=64, enforce_eager=True, dtype=dtype, enable_lora=True, max_lora_rank=16)
    asked = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
    for lora in (None, LoRARequest("bot", 1, adapter)):
        (answer,) = engine.generate([{"prompt_token_ids": prompt}], asked, use_tqdm=False, lora_request=lora)
        yield [next(iter(one.values())).logprob for one in answer.prompt_logprobs[1:]]

if __name__ == "__main__":
    found, asked = {}, json.load(sys.stdin)
    for scheme, (model, dtype) in asked["models"].items():
        try:
            found[scheme] = list(told(model, dtype, asked["adapter"], asked["prompt"]))
        except Exception as error:
            found[scheme] = str(error)
        gc.collect()
        print("\\nfound:" + json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of random weights in whose answers the linear layers count as much as the embeddings do."""
    folder = make_tiny_model(tmp_path_factory.mktemp("quantized") / "base", hidden_size=128)
    model = load_model(folder, dtype=torch.float32)
    with torch.no_grad():
        for name in linear_layers(model):
            model.get_submodule(name).weight *= 4
    model.to(torch.bfloat16).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return make_adapter(base, tmp_path_factory.mktemp("quantized") / "adapter", seed=1)


@pytest.fixture(scope="module")
def packed(base, tmp_path_factory):
    """The folder of the base in a scheme."""
    made = {}

    def folder(scheme):
        if scheme not in made:
            made[scheme] = tmp_path_factory.mktemp(scheme)
            quantize_model(base, made[scheme], SCHEMES[scheme])
        return made[scheme]

    return folder


@torch.no_grad()
def log_probabilities(folder, adapter=None):
    ids = torch.tensor(PROMPT)
    model = load_model(folder, dtype=torch.float32).eval()
    if adapter is not None:
        model = load_adapter(model, adapter).eval()
    scores = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    return scores[:-1].gather(1, ids[1:, None])[:, 0]


@pytest.fixture(scope="module")
def by_vllm(packed, adapter):
    """What one process with vLLM computes with each scheme, for the base and for the adapter; or its error."""
    folders = {scheme: packed(scheme) for scheme in SCHEMES_OF_SAFETENSORS if scheme != SLOW}
    models = {scheme: (str(folder), vllm_dtype_on_cpu(folder)) for scheme, folder in folders.items()}
    own = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps({"models": models, "adapter": str(adapter), "prompt": PROMPT}),
        capture_output=True,
        text=True,
        env=dict(os.environ) | own,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    told = [line for line in ended.stdout.splitlines() if line.startswith("found:")][-1]
    return json.loads(told.removeprefix("found:"))


@pytest.mark.parametrize("scheme", [name for name in SCHEMES_OF_SAFETENSORS if "cpu" in SCHEMES[name].vllm_on])
def test_vllm_computes_with_it_and_with_an_adapter_on_it_as_transformers_does(base, adapter, packed, by_vllm, scheme):
    assert isinstance(by_vllm[scheme], list), by_vllm[scheme]
    for told, version in zip(by_vllm[scheme], (None, adapter), strict=True):
        expected = log_probabilities(packed(scheme), version)
        off = (torch.tensor(told) - expected).abs().mean()
        rounded = (log_probabilities(base, version) - expected).abs().mean()
        print(f"{scheme}: {off:.4f} off by vLLM, {rounded:.4f} by its rounding")  # noqa: T201 - shown with -s
        assert off < rounded / 2


@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_vllm_refuses_it(by_vllm, scheme):
    assert isinstance(by_vllm[scheme], str), "vLLM serves it, and the table says that it does not"
    assert SCHEMES[scheme].vllm_on != ("cpu", "cuda")


def test_torch_multiplies_fp8_on_a_cpu_too_slowly_for_vllm():
    assert "cpu" not in SCHEMES[SLOW].vllm_on
    inputs, weights, one = torch.randn(17, 256), torch.randn(256, 256), torch.ones(1)
    few = [matrix.to(torch.float8_e4m3fn) for matrix in (inputs, weights)]

    def seconds(call):
        begun = time.process_time()
        call()
        return time.process_time() - begun

    slow = min(seconds(lambda: torch._scaled_mm(few[0], few[1].t(), one, one)) for _ in range(3))
    assert slow > 20 * min(seconds(lambda: inputs @ weights.t()) for _ in range(3))


def test_the_formats_that_vllm_reads_are_known():
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    assert set(QUANTIZATION_METHODS) | {"auto-round"} >= VLLM_METHODS  # which it reads as inc
    assert not {"bitsandbytes", "gguf"} & set(QUANTIZATION_METHODS)


@pytest.mark.parametrize("scheme", SCHEMES_OF_SAFETENSORS)
def test_engine_transformers_serves_it(packed, scheme):
    trial = SpeedTrial(str(packed(scheme)), "transformers", num_threads=1, **SHORT)
    assert measure_speed(trial).tokens_per_s > 0


@pytest.mark.parametrize("scheme", [name for name, one in SCHEMES.items() if one.family == "gguf"])
def test_engine_gguf_serves_it(packed, scheme):
    trial = SpeedTrial(str(packed(scheme) / "model.gguf"), "gguf", num_threads=1, **SHORT)
    assert measure_speed(trial).tokens_per_s > 0


def test_deploy_serves_quantized_weights_and_an_adapter_that_was_evaluated_on_them(
    ray_cluster, base, adapter, tmp_path
):
    from llamafarm_ray.clusters.ports import free_port
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.undeploy import undeploy
    from llamafarm_ray.workflows.models.quantize import quantize
    from llamafarm_ray.workflows.versions.register import Registration, register, stated

    registry = open_registry(str(tmp_path / "home"))
    register(registry, Registration(base, name="tiny"))
    folder = quantize(registry, "tiny", tmp_path / "int4", scheme="int4", measure=None).path
    quantized = register(registry, Registration(folder, name="tiny-int4"))
    register(registry, Registration(adapter, name="bot", facts=stated(base_model="tiny")))
    registry.record_metrics("bot:1.0.0", {"evaluated_on": {quantized.registered.manifest: {"accuracy": 1.0}}})
    deployment = {"port": free_port(), "max_lora_rank": 16, "adapters": ["bot"]}
    config = parse_config({"base_model": "tiny-int4", "deployment": deployment})
    deployed = deploy(config, registry, ray_cluster)
    try:
        for name, version in (("tiny-int4", None), ("bot:1.0.0", adapter)):
            body = {"model": name, "prompt": PROMPT, "max_tokens": 1, "echo": True, "logprobs": 1}
            choice = httpx.post(f"{deployed.url}/completions", json=body, timeout=60).json()["choices"][0]
            found = torch.tensor(choice["logprobs"]["token_logprobs"][1 : len(PROMPT)])
            expected = log_probabilities(folder, version)
            rounded = (log_probabilities(base, version) - expected).abs().mean()
            assert (found - expected).abs().mean() < rounded / 2
    finally:
        undeploy(registry, ray_cluster)
