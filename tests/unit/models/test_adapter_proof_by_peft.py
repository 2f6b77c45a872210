"""Adapters of every kind that peft and this package save are proved, whatever the base calls its modules."""

import warnings

import pytest
from tiny_adapters import change_tensors, write_adapter, write_base
from tiny_model import make_tiny_model

from llamafarm_ray.config import MethodParameters
from llamafarm_ray.errors import InputError
from llamafarm_ray.models.adapters import prove_adapter

LINEAR = ["q_proj", "v_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A base whose linear layers hold their weights transposed, and whose weights are named without a prefix."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32)).save_pretrained(folder)
    return folder


def saved(base, folder, config):
    """What peft saves of an adapter of this configuration."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


KINDS = {
    "bias all": {"target_modules": LINEAR, "bias": "all"},
    "lora_bias": {"target_modules": LINEAR, "lora_bias": True},
    "DoRA": {"target_modules": LINEAR, "use_dora": True},
    "all linear layers": {"target_modules": "all-linear"},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "embeddings and head": {"target_modules": ["embed_tokens", "lm_head"]},
    "modules of its own": {"target_modules": LINEAR, "modules_to_save": ["lm_head"]},
    "trained tokens": {"target_modules": LINEAR, "trainable_token_indices": {"embed_tokens": [1, 2]}},
    "some layers": {"target_modules": LINEAR, "layers_to_transform": [1]},
    "replicated layers": {"target_modules": LINEAR, "layer_replication": [[0, 2], [1, 2]]},
    "parameters": {"target_modules": LINEAR, "target_parameters": ["mlp.gate_proj.weight"]},
}
FOR_VLLM = {"all linear layers", "embeddings", "embeddings and head", "some layers"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_saves_is_proved_and_is_not_without_one_of_its_tensors(base, tmp_path, kind):
    from peft import LoraConfig

    adapter = saved(base, tmp_path / "adapter", LoraConfig(r=4, task_type="CAUSAL_LM", **KINDS[kind]))
    assert (prove_adapter(adapter, base).not_for_vllm == "") == (kind in FOR_VLLM)
    dropped = {}

    def drop(tensors):
        name = max(name for name in tensors if "base_layer" not in name)
        dropped[name] = tensors[name]
        return {other: one for other, one in tensors.items() if other != name}

    change_tensors(adapter, drop)
    with pytest.raises(InputError, match="1 tensors are missing") as refused:
        prove_adapter(adapter, base)
    assert next(iter(dropped)) in str(refused.value)


@pytest.mark.parametrize("name", ["IA3Config", "LoHaConfig", "VeraConfig"])
def test_other_methods_of_peft_are_proved_for_the_transformers_engine(base, tmp_path, name):
    import peft

    config = getattr(peft, name)(target_modules=["q_proj"], task_type="CAUSAL_LM")
    if name == "IA3Config":
        config.feedforward_modules = []
    assert prove_adapter(saved(base, tmp_path / "adapter", config), base).not_for_vllm.startswith("the type ")


@pytest.mark.parametrize("method", ["adapter", "prefix_tuning", "hybrid_lora_adapter", "lora"])
def test_what_our_methods_save_is_proved_on_its_base_and_on_no_larger_one(base, tmp_path, method):
    import torch

    from llamafarm_ray.models.loading import load_model
    from llamafarm_ray.training.methods import find_method

    chosen = find_method(method)(MethodParameters(num_virtual_tokens=3, r=2))
    model = chosen.wrap(load_model(base, dtype=torch.float32), base_model=base)
    weights = {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    chosen.save(model, weights, adapter)
    assert (prove_adapter(adapter, base).not_for_vllm == "") == (method == "lora")
    larger = make_tiny_model(tmp_path / "larger", hidden_size=128)
    with pytest.raises(InputError, match="wrong shapes"):
        prove_adapter(adapter, larger)


def test_modules_that_are_named_otherwise_than_their_weights_are_known(gpt2, tmp_path):
    from peft import LoraConfig

    config = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    adapter = saved(gpt2, tmp_path / "adapter", config)
    prove_adapter(adapter, gpt2)
    change_tensors(adapter, lambda tensors: {name.replace("transformer.", ""): one for name, one in tensors.items()})
    with pytest.raises(InputError, match="no module of the base"):
        prove_adapter(adapter, gpt2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "lora"}, "peft_type is 'lora'.*Did you mean LORA"),
        ({"peft_type": "NOVEL"}, "peft_type is 'NOVEL', which peft does not know"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, r"of no module of its base model: mlp\.experts\.gate_up"),
    ],
)
def test_what_peft_would_ignore_or_not_know_is_refused_by_its_name(tmp_path, config, message):
    base = write_base(tmp_path / "base")
    with pytest.raises(InputError, match=message):
        prove_adapter(write_adapter(tmp_path / "adapter", base, **config), base)
