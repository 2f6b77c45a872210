"""LoRA's default layers on families with unusual layers: each has a gradient; what can't be adapted is named."""

import dataclasses

import pytest
import torch
import transformers as hf

from llamafarm_ray.config import MethodParameters
from llamafarm_ray.errors import UserError
from llamafarm_ray.models.loading import inspect_architecture, linear_module_names
from llamafarm_ray.training.methods import find_method
from llamafarm_ray.training.plan.choosing import _about_experts

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
MIXER = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
DENSE = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
FAMILIES = {
    "llama4": (
        lambda: hf.Llama4TextConfig(
            **SMALL, head_dim=16, intermediate_size_mlp=64, num_local_experts=2, interleave_moe_layer_step=1
        ),
        DENSE,
        "router",
    ),
    "falcon_h1": (lambda: hf.FalconH1Config(**SMALL, **MIXER), sorted([*DENSE, "in_proj"]), "out_proj"),
    "mamba": (
        lambda: hf.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4),
        ["in_proj"],
        "dt_proj",
    ),
    "gemma3": (
        lambda: hf.Gemma3Config(
            text_config={**SMALL, "head_dim": 16}, vision_config=VISION, mm_tokens_per_image=4, dtype="float32"
        ),
        DENSE,
        "fc1",
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    config, adapted, unfit = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config())
    model.config.save_pretrained(folder)
    model.name_or_path = str(folder)
    return folder, model, adapted, unfit


def test_the_default_is_what_can_be_adapted_and_a_text_reaches(family):
    folder, model, adapted, _ = family
    assert list(inspect_architecture(folder).linear_modules) == adapted
    method = find_method("lora")(MethodParameters(r=2, lora_alpha=4))
    method.check(inspect_architecture(folder))
    wrapped = method.wrap(model, base_model=folder)
    ids = torch.arange(5, 25).reshape(2, 10)
    wrapped(input_ids=ids, labels=ids).loss.backward()
    trained = {name: weights for name, weights in wrapped.named_parameters() if weights.requires_grad}
    assert trained
    assert [name for name, weights in trained.items() if weights.grad is None] == []
    assert not any("vision" in name for name in trained)
    wrapped.unload()


def test_a_layer_that_can_t_be_adapted_is_refused_with_those_that_can(family):
    folder, _, adapted, unfit = family
    method = find_method("lora")(MethodParameters(target_modules=(unfit,)))
    with pytest.raises(UserError, match=f"names '{unfit}', which can't be adapted") as refused:
        method.check(inspect_architecture(folder))
    assert ", ".join(adapted) in refused.value.hint


def test_routed_experts_that_get_no_update_are_counted_and_said(tmp_path):
    config = hf.Qwen3MoeConfig(**SMALL, head_dim=16, num_experts=4, moe_intermediate_size=8, num_experts_per_tok=2)
    config.architectures = ["Qwen3MoeForCausalLM"]
    config.save_pretrained(tmp_path)
    architecture = inspect_architecture(tmp_path)
    assert architecture.num_expert_parameters == 2 * 4 * 3 * 8 * 32, "blocks, experts, matrices, sizes"
    (said,) = _about_experts("lora", architecture)
    assert "6,144 of" in said
    assert "16 bits" in _about_experts("qlora", architecture)[0]
    assert _about_experts("full", architecture) == []
    assert _about_experts("lora", dataclasses.replace(architecture, num_expert_parameters=0)) == []


def test_linear_layers_of_a_familys_own_class_are_adapted():
    config = hf.FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    model = hf.FalconForCausalLM(config)
    assert linear_module_names(model) == ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]
