"""An adapter is registered and loaded on a base only where all of it fits."""

import json

import numpy as np
import pytest
from tiny_adapters import HIDDEN, change_config, change_tensors, lora_tensors, write_adapter, write_base

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.adapters import MisnamedError, patterns, prove_adapter, rename_tensors


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def adapter(tmp_path, base):
    return write_adapter(tmp_path / "adapter", base)


def renamed(old, new):
    return lambda tensors: {name.replace(old, new): one for name, one in tensors.items()}


def first(change):
    """A change of the first tensor alone."""

    def of_all(tensors):
        name = min(tensors)
        return {**tensors, name: change(tensors[name])}

    return of_all


def without(*ends):
    return lambda tensors: {name: one for name, one in tensors.items() if not name.endswith(ends)}


HONEST = {
    "plain": {},
    "all projections": {"targets": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")},
    "a target that the base lacks, beside one that it has": {"target_modules": ["q_proj", "v_proj", "w1"]},
    "a pattern": {"target_modules": r".*\.(q|v)_proj"},
    "rank-stabilised": {"use_rslora": True},
    "a large scale": {"lora_alpha": 512},
    "a negative scale": {"lora_alpha": -4},
    "initialisations that leave the base alone": {"init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("config", HONEST.values(), ids=HONEST)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_adapter_that_fits_is_proved(tmp_path, base, config, dtype):
    assert prove_adapter(write_adapter(tmp_path / "a", base, **config), base, dtype=dtype).not_for_vllm == ""


def test_ranks_and_scales_of_patterns_are_those_of_peft(tmp_path, base):
    tensors = lora_tensors(rank=4) | {
        name: one for name, one in lora_tensors(rank=2).items() if "layers.1.self_attn.v_proj" in name
    }
    adapter = write_adapter(tmp_path / "a", base, tensors=tensors, rank_pattern={r"layers\.1\.self_attn\.v_proj": 2})
    prove_adapter(adapter, base)
    change_config(adapter, alpha_pattern={"v_proj": 1e308})
    with pytest.raises(InputError, match=r"update of model\.layers\.0\.self_attn\.v_proj"):
        prove_adapter(adapter, base)


MISFITS = {
    "every name wrong": (renamed("model.layers", "model.decoder.layers"), {}, "8 of its 8 tensors are of no module"),
    "some names wrong": (renamed("layers.0", "layers.99"), {}, r"4 of its 8 tensors .*layers\.99"),
    "a missing lora_B": (without("layers.0.self_attn.q_proj.lora_B.weight"), {}, "1 tensors are missing .*lora_B"),
    "a module that is claimed and has nothing": (dict, {"target_modules": ["q_proj", "v_proj", "o_proj"]}, "4 tensors"),
    "a module that is not claimed": (dict, {"target_modules": ["q_proj"]}, "4 of its 8 tensors are of no module"),
    "a rank that the weights contradict": (dict, {"r": 8}, r"wrong shapes: .*\(4, 16\) and should have \(8, 16\)"),
    "matrices of two ranks": (first(lambda one: one[:2]), {}, r"1 of its 8 tensors have wrong shapes.*\(2, 16\)"),
    "an excluded module": (dict, {"exclude_modules": ["v_proj"]}, "no module"),
    "no tensors": (lambda _: {}, {}, "has no tensors"),
    "an empty tensor": (first(lambda one: one[:0]), {}, "is empty"),
    "integers": (first(lambda one: one.astype(np.int8)), {}, "dtype I8"),
    "not a number": (first(lambda one: one * np.nan), {}, "NaN or infinite"),
    "infinite": (first(lambda one: one * np.inf), {}, "NaN or infinite"),
    "a product that overflows": (lambda them: {name: one * np.float32(1e19) for name, one in them.items()}, {}, "NaN"),
    "a scale that overflows": (dict, {"lora_alpha": 1e308}, r"scale 2.5e\+307"),
    "an integer scale beyond floats": (dict, {"lora_alpha": 10**400}, "lora_alpha is 1000"),
    "no scale": (dict, {"lora_alpha": 0}, "would change nothing"),
    "a scale in words": (dict, {"lora_alpha": "thirty"}, "lora_alpha is 'thirty'"),
    "rank 0": (dict, {"r": 0}, "r is 0; it must be an integer"),
    "a rank that is true": (dict, {"r": True}, "r is True"),
    "a rank in words": (dict, {"r": "4"}, "r is '4'"),
    "a rank of a pattern": (dict, {"rank_pattern": {"q_proj": -1}}, r"rank_pattern\.q_proj is -1"),
    "a pattern that is none": (dict, {"rank_pattern": {"(": 4}}, "regular expression"),
    "targets that are no names": (dict, {"target_modules": [1]}, "target_modules is"),
    "a switch that is a word": (dict, {"use_rslora": "yes"}, "use_rslora is 'yes'"),
    "weights that stand on a changed base": (dict, {"init_lora_weights": "pissa_niter_4"}, "answer wrongly.*Merge it"),
    "activated LoRA": (dict, {"alora_invocation_tokens": [1]}, "no engine serves"),
    "a method without an engine": (dict, {"peft_type": "PROMPT_TUNING"}, "no engine serves"),
    "a method that loads another model": (
        dict,
        {"peft_type": "SHADOW", "shadow_model": "/srv/private"},
        "names other models",
    ),
}


@pytest.mark.parametrize(("change", "config", "message"), MISFITS.values(), ids=MISFITS)
def test_an_adapter_that_does_not_fit_is_refused_with_what_does_not(adapter, base, change, config, message):
    change_tensors(adapter, change)
    change_config(adapter, **config)
    with pytest.raises(InputError, match=message) as refused:
        prove_adapter(adapter, base)
    assert str(adapter.parent) not in str(refused.value)


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": r"(([a-z_.0-9]+)+)+!"},
        {"exclude_modules": r"(.*)*!"},
        {"rank_pattern": {r"([a-z._0-9]*)*!": 4}},
        {"target_modules": r"(([a-z_.0-9]+)+)+!", "bias": "all"},
        {"modules_to_save": [r"([a-z._0-9]*)*!"]},
        {"layers_pattern": [r"([a-z._0-9]*)*!"]},
    ],
)
def test_an_expression_that_would_hold_up_everybody_is_refused(adapter, base, monkeypatch, config):
    monkeypatch.setattr(patterns, "_CPU_S", 0.02)
    change_config(adapter, **config)
    with pytest.raises(InputError, match="takes too long"):
        prove_adapter(adapter, base)


@pytest.mark.parametrize(("hidden", "layers"), [(2 * HIDDEN, 2), (HIDDEN, 1)])
def test_an_adapter_of_a_base_of_another_size_is_refused(adapter, tmp_path, hidden, layers):
    other = write_base(tmp_path / "other", hidden=hidden, layers=layers)
    with pytest.raises(InputError, match=r"does not fit its base model: .*(wrong shapes|no module)"):
        prove_adapter(adapter, other)


def test_no_update_may_be_larger_than_the_dtype_it_is_served_in(tmp_path, base):
    adapter = write_adapter(tmp_path / "a", base, lora_alpha=3e5)
    prove_adapter(adapter, base, dtype="bfloat16")
    with pytest.raises(InputError, match=r"float16 allows 6\.6e\+04"):
        prove_adapter(adapter, base, dtype="float16")
    half = write_base(tmp_path / "half", dtype="float16")
    with pytest.raises(InputError, match="float16"):
        prove_adapter(adapter, half)


@pytest.mark.parametrize("name", ["adapter_model-00001-of-00002.safetensors", "model.safetensors"])
def test_weights_that_no_engine_would_read_are_refused(adapter, base, name):
    (adapter / "adapter_model.safetensors").rename(adapter / name)
    with pytest.raises(InputError, match=rf"no adapter_model\.safetensors; it has {name}"):
        prove_adapter(adapter, base)


RENAMINGS = {
    "data parallelism": (renamed("base_model.model.", "base_model.model.module."), "`module.` is taken out"),
    "before all": (renamed("base_model.", "module.base_model."), "`module.` is taken out"),
    "compiled": (renamed("base_model.model.", "base_model.model._orig_mod."), "`_orig_mod.` is taken out"),
    "text_model": (renamed("model.layers", "text_model.layers"), None),
    "text_model of a model": (renamed("model.layers", "model.text_model.layers"), "`text_model` is taken out"),
    "language_model": (renamed("model.layers", "model.language_model.layers"), "`language_model` is taken out"),
    "language_model before": (renamed("model.model", "model.language_model.model"), "`language_model` is taken out"),
    "a state_dict": (renamed(".weight", ".default.weight"), "`default` is taken out"),
    "no prefix": (renamed("base_model.model.", ""), "`base_model.model.` is put before"),
    "two of them": (
        renamed("base_model.model.", "_orig_mod.module."),
        "`_orig_mod.` .* and `module.`|`module.` .* and",
    ),
}


@pytest.mark.parametrize(("change", "words"), [one for one in RENAMINGS.values() if one[1]])
def test_a_well_known_renaming_is_offered_and_makes_the_adapter_fit(adapter, base, tmp_path, change, words):
    weights = adapter / "adapter_model.safetensors"
    before = weights.read_bytes()
    change_tensors(adapter, change)
    with pytest.raises(MisnamedError, match=f"fits once {words}.*--fix-names") as refused:
        prove_adapter(adapter, base)
    rename_tensors(weights, tmp_path / "renamed", refused.value.renaming.names)
    (tmp_path / "renamed").replace(weights)
    prove_adapter(adapter, base)
    assert weights.read_bytes()[-64:] == before[-64:]


def test_a_chat_template_of_its_own_is_refused_and_its_bases_is_not(adapter, base, tmp_path):
    base = write_base(tmp_path / "base")
    (base / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (adapter / "chat_template.jinja").write_text("{{ messages }}\n")
    prove_adapter(adapter, base)
    (adapter / "chat_template.jinja").write_text("{{ messages[0] }}")
    with pytest.raises(InputError, match=r"chat template of its own.*merge"):
        prove_adapter(adapter, base)


def test_tokens_that_the_base_lacks_are_refused_by_name(adapter, tmp_path):
    base = write_base(tmp_path / "base")
    tokenizer = {"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "<s>"}]}
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
    prove_adapter(adapter, base)
    tokenizer["added_tokens"].append({"content": "<tool>"})
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=r"1 tokens that its base model's has not: '<tool>'"):
        prove_adapter(adapter, base)
