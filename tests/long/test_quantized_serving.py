"""What the tables say of quantized weights and vLLM on a CPU: served with the right numbers, or refused."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny_model import make_tiny_model

from llamafarm_ray.errors import DeploymentError
from llamafarm_ray.models.loading import load_model
from llamafarm_ray.models.quantize.quantization import quantize_model
from llamafarm_ray.models.quantize.schemes import SCHEMES
from llamafarm_ray.serving.optimize.speed import SpeedTrial, measure_speed

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(torch.cuda.is_available(), reason="this is about vLLM's kernels for CPUs"),
]

PROMPT = list(range(20, 60))
SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    engine = LLM(sys.argv[1], max_model_len=64, enforce_eager=True, dtype="float32", enable_lora=True)
    asked = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
    (answer,) = engine.generate([{"prompt_token_ids": json.loads(sys.argv[2])}], asked, use_tqdm=False)
    told = [next(iter(one.values())).logprob for one in answer.prompt_logprobs[1:]]
    print("\\nfound:" + json.dumps(told))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("quantized") / "base", hidden_size=128)


def packed(base, folder, scheme):
    folder.mkdir()
    quantize_model(base, folder, SCHEMES[scheme])
    return folder


@torch.no_grad()
def log_probabilities(folder):
    ids = torch.tensor(PROMPT)
    scores = load_model(folder, dtype=torch.float32).eval()(input_ids=ids[None]).logits[0].log_softmax(-1)
    return scores[:-1].gather(1, ids[1:, None])[:, 0]


@pytest.mark.parametrize("scheme", [name for name, one in SCHEMES.items() if "cpu" in one.vllm_on])
def test_vllm_on_a_cpu_computes_with_it_as_transformers_does(base, tmp_path, scheme):
    folder = packed(base, tmp_path / "out", scheme)
    environment = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), json.dumps(PROMPT)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    told = next(line for line in ended.stdout.splitlines() if line.startswith("found:"))
    found, expected = torch.tensor(json.loads(told.removeprefix("found:"))), log_probabilities(folder)
    assert torch.allclose(found, expected, atol=0.02)
    assert (found - expected).abs().mean() < (log_probabilities(base) - expected).abs().mean()


@pytest.mark.parametrize(
    "scheme", [name for name, one in SCHEMES.items() if one.family != "gguf" and "cpu" not in one.vllm_on]
)
def test_vllm_on_a_cpu_refuses_it_and_transformers_serves_it(base, tmp_path, scheme):
    folder = packed(base, tmp_path / "out", scheme)
    with pytest.raises(DeploymentError, match="can't serve"):
        measure_speed(SpeedTrial(str(folder), "vllm", prompt_tokens=16, new_tokens=4, num_rounds=1))
    trial = SpeedTrial(str(folder), "transformers", num_threads=1, prompt_tokens=16, new_tokens=4, num_rounds=1)
    assert measure_speed(trial).tokens_per_s > 0
