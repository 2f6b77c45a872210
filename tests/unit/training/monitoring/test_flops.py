"""The operations that are counted are those that torch does."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_model import make_tiny_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from llamafarm_ray.training.monitoring.flops import ModelFlops, peak_flops_per_s, training_flops_per_token


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("flops") / "base")


def load(folder):
    return AutoModelForCausalLM.from_pretrained(str(folder), attn_implementation="eager")


def counted(model, num_rows, length):
    """Operations a token of a forward and backward pass, as torch counts them."""
    ids = torch.ones(num_rows, length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    return counter.get_total_flops() / (num_rows * length)


def test_full_training_costs_what_torch_counts(folder):
    model = load(folder)
    for length in (16, 128):
        expected = counted(model, 2, length)
        # The first layer's input needs no gradient where nothing below it is trained; here the embedding is.
        assert training_flops_per_token(model, context_tokens=length) == pytest.approx(expected, rel=1e-3)


def test_low_rank_training_costs_what_torch_counts(folder):
    model = get_peft_model(load(folder), LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    per_token = training_flops_per_token(model, context_tokens=128)
    # Torch skips the gradient of the first layer's input, which nothing below asks for: a few percent of two layers.
    assert counted(model, 2, 128) < per_token < 1.1 * counted(model, 2, 128)
    assert per_token < 0.9 * training_flops_per_token(load(folder), context_tokens=128)


def test_gpt2s_transposed_linear_layers_count():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=128, n_positions=64, n_embd=32, n_layer=2, n_head=2))
    model.config._attn_implementation = "eager"
    assert training_flops_per_token(model, context_tokens=64) == pytest.approx(counted(model, 2, 64), rel=2e-2)


def test_a_dense_model_costs_six_operations_a_weight_and_token(folder):
    model = load(folder)
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n)
    if model.config.tie_word_embeddings:
        matrices += model.lm_head.weight.numel()
    assert training_flops_per_token(model, context_tokens=0) == 6 * matrices


def test_a_mixture_of_experts_has_no_number(folder):
    model = load(folder)
    model.config.num_local_experts = 8
    assert training_flops_per_token(model, context_tokens=16) is None
    assert ModelFlops.of(model, context_tokens=16, device_name="NVIDIA H100", precision="bf16", num_devices=1) is None


def test_a_model_without_attention_has_no_number():
    model = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, state_size=4))
    assert training_flops_per_token(model, context_tokens=16) is None


@pytest.mark.parametrize(
    ("name", "precision", "tera"),
    [
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756.0),
        ("NVIDIA A100-SXM4-40GB", "bf16", 312.0),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NVIDIA A10G", "bf16", 70.0),
        ("NVIDIA L4", "bf16", 121.0),
        ("NVIDIA L40S", "bf16", 362.1),
        ("NVIDIA RTX 6000 Ada Generation", "bf16", 364.2),
        ("Tesla T4", "fp16", 65.0),
        ("Tesla T4", "bf16", None),
        ("Some GPU of tomorrow", "bf16", None),
        ("", "fp32", None),
    ],
)
def test_peaks_are_those_of_the_devices_by_name(name, precision, tera):
    assert peak_flops_per_s(name, precision) == (None if tera is None else pytest.approx(tera * 1e12))


def test_utilisation_is_a_share_of_all_devices(folder):
    model = load(folder)
    flops = ModelFlops.of(model, context_tokens=64, device_name="NVIDIA H200", precision="bf16", num_devices=4)
    assert flops.peak_per_s == pytest.approx(4 * 989.4e12)
    assert flops.utilisation(flops.peak_per_s / flops.per_token) == pytest.approx(1.0)
    assert ModelFlops.of(model, context_tokens=64, device_name="", precision="fp32", num_devices=1) is None
