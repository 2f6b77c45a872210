import json

import pytest
import torch
from safetensors.torch import load_file

from llamafarm_ray.config import MethodParameters
from llamafarm_ray.errors import IntegrityError, UnsupportedError, UserError
from llamafarm_ray.models.loading import inspect_architecture
from llamafarm_ray.training.methods import METHODS, find_method
from llamafarm_ray.types import ModelKind

ALL_LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
IDS = torch.arange(5, 25).reshape(2, 10)


def randomise(strategy):
    """As if trained: adapters start as zero, and zero would prove nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in strategy.module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    strategy.module.eval()


@pytest.mark.parametrize(
    "parameters",
    [
        MethodParameters(r=4, lora_alpha=8),
        MethodParameters(r=4, lora_alpha=8, use_rslora=True),
        MethodParameters(r=4, lora_alpha=8, use_dora=True, target_modules=("q_proj", "v_proj")),
    ],
    ids=["lora", "rslora", "dora"],
)
def test_a_saved_adapter_answers_the_same_in_plain_peft(make_strategy, base_model, tmp_path, parameters):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    method, strategy = make_strategy("lora", parameters)
    randomise(strategy)
    with torch.no_grad():
        expected = strategy.model(input_ids=IDS).logits
    method.save(strategy.module, strategy.weights(), tmp_path)

    base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    with torch.no_grad():
        plain = base(input_ids=IDS).logits
        loaded = PeftModel.from_pretrained(base, tmp_path).eval()(input_ids=IDS).logits
    assert torch.allclose(loaded, expected, atol=1e-5)
    assert not torch.allclose(plain, expected, atol=1e-2)


def test_a_saved_model_answers_the_same_in_plain_transformers(make_strategy, tmp_path):
    from transformers import AutoModelForCausalLM

    method, strategy = make_strategy("full")
    randomise(strategy)
    with torch.no_grad():
        expected = strategy.model(input_ids=IDS).logits
    method.save(strategy.module, strategy.weights(), tmp_path)
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(input_ids=IDS).logits
    assert torch.allclose(loaded, expected, atol=1e-5)


def test_qlora_trains_on_4_bit_weights_and_saves_a_plain_adapter(make_strategy, base_model, tmp_path):
    from bitsandbytes.nn import Linear4bit
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    method, strategy = make_strategy("qlora", MethodParameters(r=4))
    quantised = [name for name, module in strategy.module.named_modules() if isinstance(module, Linear4bit)]
    assert len(quantised) == 2 * len(ALL_LINEAR)
    method.save(strategy.module, strategy.weights(), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == ALL_LINEAR
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_model), tmp_path)


def test_auto_adapts_every_linear_layer_but_the_head_and_records_their_names_sorted(
    make_strategy, base_model, tmp_path
):
    method, strategy = make_strategy("lora", MethodParameters(r=4))
    method.save(strategy.module, strategy.weights(), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ALL_LINEAR
    assert config["base_model_name_or_path"] == str(base_model)
    assert config["r"] == 4
    names = load_file(tmp_path / "adapter_model.safetensors").keys()
    assert len(names) == 2 * 2 * len(ALL_LINEAR)
    assert not [name for name in names if "lm_head" in name]


def test_blocks_that_are_not_named_stay_as_they_are(make_strategy, tmp_path):
    method, strategy = make_strategy("lora", MethodParameters(r=4, layers_to_transform=(1,)))
    trained = [name for name, parameter in strategy.module.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * len(ALL_LINEAR)
    assert all(".layers.1." in name for name in trained)
    method.save(strategy.module, strategy.weights(), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["layers_to_transform"] == [1]


@pytest.mark.parametrize(
    ("layers", "message"), [((0, 2), "names block 2, but the base model has 2"), ((), "layers_to_transform is empty")]
)
def test_blocks_that_the_model_lacks_are_refused(base_model, layers, message):
    method = find_method("lora")(MethodParameters(layers_to_transform=layers))
    with pytest.raises(UserError, match=message):
        method.check(inspect_architecture(base_model))


def test_saving_twice_writes_the_same_bytes(make_strategy, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        method, strategy = make_strategy("lora", MethodParameters(r=4))
        method.save(strategy.module, strategy.weights(), tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("method_name", ["lora", "full"])
@pytest.mark.parametrize(
    ("spoil", "message"), [(lambda t: t.fill_(float("nan")), "NaN or infinite"), (lambda t: t[:0], "empty")]
)
def test_weights_that_are_empty_or_not_finite_are_not_saved(make_strategy, tmp_path, method_name, spoil, message):
    method, strategy = make_strategy(method_name, MethodParameters(r=4))
    weights = strategy.weights()
    name = max(weights)
    weights[name] = spoil(weights[name])
    with pytest.raises(IntegrityError, match=message):
        method.save(strategy.module, weights, tmp_path)


def test_a_target_that_matches_nothing_names_what_there_is(base_model):
    method = find_method("lora")(MethodParameters(target_modules=("q_proj", "q_porj")))
    with pytest.raises(UserError, match=r"'q_porj'.*Did you mean q_proj"):
        method.check(inspect_architecture(base_model))


def test_targets_may_be_dotted_names(base_model):
    find_method("lora")(MethodParameters(target_modules=("self_attn.q_proj",))).check(inspect_architecture(base_model))


def test_every_method_says_what_it_saves():
    kinds = {name: method.kind for name, method in METHODS.items()}
    assert kinds.pop("full") == ModelKind.BASE
    assert set(kinds) == {"lora", "qlora", "adapter", "prefix_tuning", "hybrid_lora_adapter"}
    assert set(kinds.values()) == {ModelKind.ADAPTER}
    with pytest.raises(UnsupportedError, match="'ia3' can't be trained"):
        find_method("ia3")
