"""Whatever a method saved, plain peft reads it back as the model that was trained."""

import json

import pytest
import torch
from method_models import IDS, make_model, output, randomise, reload, trained, wrapped

from llamafarm_ray.config import MethodParameters
from llamafarm_ray.errors import InputError, IntegrityError
from llamafarm_ray.models.adapters import load_adapter, read_adapter_config
from llamafarm_ray.models.loading import load_model

PATTERN = {"layers.0.self_attn.q_proj": 8, r"(gate|up)_proj": 2}
CASES = {
    "lora": ("lora", MethodParameters(r=4, lora_alpha=8)),
    "rslora": ("lora", MethodParameters(r=4, use_rslora=True)),
    "dora": ("lora", MethodParameters(r=4, use_dora=True, target_modules=("q_proj", "v_proj"))),
    "patterns": ("lora", MethodParameters(r=4, rank_pattern=PATTERN, alpha_pattern=PATTERN)),
    "houlsby": ("adapter", MethodParameters(bottleneck_dim=8)),
    "pfeiffer": ("adapter", MethodParameters(adapter_type="pfeiffer", non_linearity="gelu", adapter_scale=2.0)),
    "prefix": ("prefix_tuning", MethodParameters(num_virtual_tokens=5)),
    "projected prefix": ("prefix_tuning", MethodParameters(num_virtual_tokens=5, prefix_projection=True)),
    "hybrid": ("hybrid_lora_adapter", MethodParameters(r=4)),
    "hybrid with dora": ("hybrid_lora_adapter", MethodParameters(r=4, use_dora=True)),
}
PEFT_TYPES = {
    "lora": "LORA",
    "adapter": "BOTTLENECK",
    "prefix_tuning": "PREFIX_TUNING",
    "hybrid_lora_adapter": "HYBRID_LORA_ADAPTER",
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("llama"))


def save(method, model, folder):
    folder.mkdir(parents=True)
    method.save(model, trained(model), folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_plain_peft_gives_the_live_models_logits(llama, tmp_path, case):
    name, parameters = CASES[case]
    method, model = wrapped(llama, name, parameters)
    randomise(model)
    expected = output(model)
    folder = save(method, model, tmp_path / "adapter")
    assert float((output(reload(llama, folder)) - expected).abs().max()) < 1e-5
    assert float((output(load_model(llama, dtype=torch.float32)) - expected).abs().max()) > 1e-2
    assert read_adapter_config(folder).peft_type == PEFT_TYPES[name]


@pytest.mark.parametrize("case", CASES)
def test_saving_twice_writes_the_same_bytes(llama, tmp_path, case):
    written = []
    for attempt in ("one", "two"):
        folder = save(*wrapped(llama, *CASES[case]), tmp_path / attempt)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("spoil", "message"), [(lambda t: t.clone().fill_(float("nan")), "NaN or infinite"), (lambda t: t[:0], "empty")]
)
def test_an_empty_tensor_or_a_nan_fails_the_save(llama, tmp_path, case, spoil, message):
    method, model = wrapped(llama, *CASES[case])
    weights = trained(model)
    name = min(weights)
    weights[name] = spoil(weights[name])
    with pytest.raises(IntegrityError, match=message):
        method.save(model, weights, tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()


@pytest.mark.parametrize("architecture", ["qwen2", "mistral", "gpt2", "gpt_neox", "opt", "phi"])
@pytest.mark.parametrize("case", ["houlsby", "prefix", "hybrid"])
def test_other_architectures_reload_as_well(tmp_path, architecture, case):
    base = make_model(tmp_path / "base", architecture)
    method, model = wrapped(base, *CASES[case])
    randomise(model)
    expected = output(model)
    folder = save(method, model, tmp_path / "adapter")
    assert float((output(reload(base, folder)) - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("architecture", ["bert", "llama"])
@pytest.mark.parametrize("name", ["lora", "adapter", "hybrid_lora_adapter", "full"])
def test_an_embedding_model_reloads_without_a_head(tmp_path, architecture, name):
    from transformers import AutoModel

    base = make_model(tmp_path / "base", architecture, task="embedding")
    method, model = wrapped(base, name, task="embedding")
    randomise(model)
    expected = output(model)
    assert expected.shape == (*IDS.shape, 32)
    assert not [parameter for parameter in trained(model) if "pooler" in parameter]
    folder = save(method, model, tmp_path / "out")
    if name == "full":
        found = output(AutoModel.from_pretrained(folder, dtype=torch.float32).eval())  # its pooling head is anew
    else:
        found = output(reload(base, folder, task="embedding"))
        assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == "FEATURE_EXTRACTION"
    assert float((found - expected).abs().max()) < 1e-5


def test_every_trained_parameter_of_an_encoder_gets_a_gradient(tmp_path):
    base = make_model(tmp_path / "base", "bert", task="embedding")
    for name in ("lora", "adapter", "hybrid_lora_adapter", "full"):
        _, model = wrapped(base, name, task="embedding")
        model(input_ids=IDS).last_hidden_state.square().sum().backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_qlora_adapter_reloads_on_the_same_quantised_base(base_model, tmp_path):
    from peft import PeftModel

    from llamafarm_ray.training.methods import Precision

    method, model = wrapped(base_model, "qlora", MethodParameters(r=4))
    randomise(model)
    expected = output(model)
    folder = save(method, model, tmp_path / "adapter")
    base = method.load(base_model, precision=Precision("fp32"), device=torch.device("cpu"))
    loaded = PeftModel.from_pretrained(base, folder).eval()
    assert float((output(loaded) - expected).abs().max()) < 1e-5


def test_a_prefix_reads_a_text_as_it_was_trained_and_writes_one(llama, tmp_path):
    method, model = wrapped(llama, *CASES["prefix"])
    randomise(model)
    folder = save(method, model, tmp_path / "adapter")
    loaded = reload(llama, folder)
    mask = torch.ones_like(IDS)
    assert torch.allclose(output(loaded, attention_mask=mask), output(model, attention_mask=mask), atol=1e-5)
    loaded.config.use_cache = True
    written = loaded.generate(input_ids=IDS, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0)
    step = IDS
    for _ in range(4):  # without a cache but the prefix
        step = torch.cat([step, output(model, step).argmax(-1)[:, -1:]], dim=1)
    assert written[:, IDS.shape[1] :].tolist() == step[:, IDS.shape[1] :].tolist()


def test_an_adapter_that_does_not_fit_its_base_is_refused(llama, tmp_path):
    folder = save(*wrapped(llama, *CASES["houlsby"]), tmp_path / "adapter")
    other = make_model(tmp_path / "other", "gpt2")
    with pytest.raises(InputError, match="does not fit its base model"):
        load_adapter(load_model(other, dtype=torch.float32), folder)
    with pytest.raises(InputError, match="is not an adapter"):
        load_adapter(load_model(other, dtype=torch.float32), tmp_path)


def test_adapters_are_loaded_by_the_function_that_all_parts_share(llama, tmp_path):
    for case in ("houlsby", "hybrid", "prefix"):
        method, model = wrapped(llama, *CASES[case])
        randomise(model)
        expected = output(model)
        folder = save(method, model, tmp_path / case)
        loaded = load_adapter(load_model(llama, dtype=torch.float32), folder).eval()
        assert torch.allclose(output(loaded), expected, atol=1e-5)
