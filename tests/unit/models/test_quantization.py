"""Weights in few bits are read back as they were measured, and budgets are kept by what was measured."""

import json

import pytest
import torch
from tiny_model import make_tiny_model

from llamafarm_ray.errors import InputError, IntegrityError, UnsupportedError
from llamafarm_ray.models.convert.calibration import column_importance
from llamafarm_ray.models.convert.measure import Bound, Difference
from llamafarm_ray.models.loading import load_model
from llamafarm_ray.models.packed_files import is_packed, vllm_dtype_on_cpu, why_not_packed_in_vllm
from llamafarm_ray.models.quantize.front import Candidate, choose, on_front
from llamafarm_ray.models.quantize.gptq import fitted
from llamafarm_ray.models.quantize.packing import check_linear
from llamafarm_ray.models.quantize.quality import Budget, measures, quality
from llamafarm_ray.models.quantize.quantization import quantize_model
from llamafarm_ray.models.quantize.scales import weight_scales
from llamafarm_ray.models.quantize.schemes import SCHEMES, find_scheme, servable_here

LAYER = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = make_tiny_model(tmp_path_factory.mktemp("quantization") / "base")
    load_model(folder, dtype=torch.bfloat16).save_pretrained(str(folder))
    return folder


def quantized(base, folder, scheme, **options):
    folder.mkdir()
    return quantize_model(base, folder, SCHEMES[scheme], **options)


@torch.no_grad()
def logits(folder):
    return load_model(folder, dtype=torch.float32).eval()(input_ids=torch.arange(3, 90)[None]).logits[0]


@pytest.mark.parametrize(
    ("scheme", "dtypes", "bits"),
    [
        ("int8", {"weight_packed": "I32", "weight_scale": "BF16", "weight_shape": "I64"}, 8),
        ("int4", {"weight_packed": "I32", "weight_scale": "BF16", "weight_shape": "I64"}, 4),
        ("w8a8", {"weight": "I8", "weight_scale": "BF16"}, 8),
        ("fp8", {"weight": "F8_E4M3", "weight_scale": "BF16"}, 8),
    ],
)
def test_packed_weights_are_those_of_compressed_tensors(base, tmp_path, scheme, dtypes, bits):
    from llamafarm_ray.storage.formats.safetensors import read_tensors

    made = quantized(base, tmp_path / "out", scheme)
    found = {entry.name: entry.dtype for entry in read_tensors(tmp_path / "out" / "model.safetensors")}
    assert {name.removeprefix(f"{LAYER}."): dtype for name, dtype in found.items() if name.startswith(LAYER)} == dtypes
    assert found["lm_head.weight"] == found["model.embed_tokens.weight"] == "BF16"
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said["dtype"] == "bfloat16"
    packed = said["quantization_config"]
    assert packed["quant_method"] == "compressed-tensors"
    assert packed["config_groups"]["group_0"]["weights"]["num_bits"] == bits
    assert packed["ignore"] == ["lm_head"]
    assert 0 < made.difference.mean_kl < 1e-3
    assert made.size_bytes < made.source_bytes
    largest = (logits(tmp_path / "out") - logits(base)).abs().max()
    assert 0 < largest < {8: 0.05, 4: 0.1}[bits]


def test_nf4_is_read_back_with_the_differences_of_four_bits(base, tmp_path):
    made = quantized(base, tmp_path / "out", "nf4")
    assert 0 < made.difference.mean_kl < 1e-3
    assert made.size_bytes < made.source_bytes
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["load_in_4bit"]


def test_weights_are_expanded_before_anything_is_put_around_them(base, tmp_path):
    quantized(base, tmp_path / "out", "int4")
    layer = load_model(tmp_path / "out", dtype=torch.float32).get_submodule(LAYER)
    assert layer.weight.shape == (64, 128)
    assert layer.weight.dtype is torch.float32


def test_fitted_rounding_changes_the_outputs_for_such_inputs_less_than_the_nearest():
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 8, generator=random) @ torch.randn(8, 128, generator=random)
    weight = torch.randn(16, 128, generator=random)
    args = four_bits()
    scales = weight_scales(weight, args)
    steps = scales.repeat_interleave(64, 1)
    nearest = (weight / steps).round().clamp(-8, 7) * steps
    found, own = fitted(weight, inputs.T @ inputs, args, torch.float32)
    levels = found / own.repeat_interleave(64, 1)
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert levels.round().min() >= -8
    assert levels.round().max() <= 7
    change, usual = ((inputs @ (one - weight).T).norm() for one in (found, nearest))
    assert change < 0.5 * usual


def test_scales_of_four_bits_leave_out_the_ends_of_a_range_where_errors_are_smaller_then():
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 128, generator=random)

    def error(scales):
        steps = scales.repeat_interleave(64, 1)
        return float(((weight / steps).round().clamp(-8, 7) * steps - weight).square().mean())

    whole = weight.reshape(64, 2, 64).abs().amax(-1) / 7.5  # compressed-tensors' scales
    found = weight_scales(weight, four_bits())
    assert torch.all(found <= whole * 1.0001)
    assert error(found) < 0.9 * error(whole)
    eight = four_bits().model_copy(update={"num_bits": 8})
    assert torch.allclose(weight_scales(weight, eight), weight.reshape(64, 2, 64).abs().amax(-1) / 127.5)


def test_inputs_that_are_no_numbers_end_with_an_error():
    with pytest.raises(InputError, match="no numbers"):
        fitted(torch.ones(2, 64), torch.full((64, 64), float("nan")), four_bits(), torch.float32)


def four_bits():
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    args = preset_name_to_scheme("W4A16", ["Linear"]).weights
    args.group_size = 64
    return args


def test_calibration_goes_through_all_layers_and_is_counted(base, tmp_path):
    texts = ["The capital of France is Paris.", "How many legs does a spider have?"]
    plain = quantized(base, tmp_path / "plain", "int4")
    made = quantized(base, tmp_path / "out", "int4", calibration=texts)
    assert (plain.num_samples, made.num_samples) == (0, 2)
    assert made.difference.mean_kl < 1e-3
    assert made.difference.mean_kl != plain.difference.mean_kl


def test_gguf_is_fitted_to_texts_by_the_squares_of_each_layers_inputs(base, tmp_path):
    texts = ["The capital of France is Paris.", "How many legs does a spider have?"]
    plain = quantized(base, tmp_path / "plain", "gguf-q4_k_m")
    made = quantized(base, tmp_path / "out", "gguf-q4_k_m", calibration=texts)
    assert (plain.num_samples, made.num_samples) == (0, 2)
    assert made.size_bytes == plain.size_bytes
    assert made.difference.mean_kl != plain.difference.mean_kl


@torch.no_grad()
def test_the_importance_of_a_column_is_the_mean_square_of_its_inputs(base):
    model, sample = load_model(base, dtype=torch.float32).eval(), torch.arange(3, 40)
    found = column_importance(model, [sample[:20], sample[20:]])
    block = model.model.layers[0]
    given = block.input_layernorm(model.model.embed_tokens(sample))
    expected = given.square().mean(0) / given.square().mean()
    name = "model.layers.0.self_attn.{}_proj.weight"
    for one in "qkv":
        assert torch.allclose(torch.tensor(found[name.format(one)]), expected, atol=1e-4)
    assert "lm_head.weight" not in found


def test_inputs_that_are_no_numbers_are_refused_by_the_layers_name(base):
    model = load_model(base, dtype=torch.float32).eval()
    model.model.embed_tokens.weight.data[5] = float("nan")
    with pytest.raises(InputError, match=r"layers\.0\.self_attn\.q_proj are no numbers"):
        column_importance(model, [torch.tensor([4, 5, 6])])


@pytest.mark.parametrize("scheme", ["fp8", "gguf-q8_0"])
def test_a_scheme_without_scales_to_fit_takes_no_texts(base, tmp_path, scheme):
    with pytest.raises(UnsupportedError, match="nothing to calibrate"):
        quantized(base, tmp_path / "out", scheme, calibration=["A text."])


def test_a_width_that_no_group_divides_is_refused_by_name(tmp_path):
    base = make_tiny_model(tmp_path / "base", hidden_size=48)
    with pytest.raises(UnsupportedError, match=r"layers\.0\.self_attn\.q_proj has rows of 48 weights"):
        quantized(base, tmp_path / "out", "int4")


def test_experts_that_would_stay_as_they_are_are_refused():
    from transformers import AutoModelForCausalLM, MixtralConfig

    config = MixtralConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UnsupportedError, match=r"mixtral only \d+% are in linear layers"):
        check_linear(model)


def test_a_gguf_file_is_packed_by_gguf_schemes_only(tmp_path):
    from gguf_files import write_gguf

    write_gguf(make_tiny_model(tmp_path / "base"), tmp_path / "model.gguf")
    with pytest.raises(UnsupportedError, match="convert --to safetensors"):
        quantized(tmp_path / "model.gguf", tmp_path / "a", "int4")
    assert quantized(tmp_path / "model.gguf", tmp_path / "b", "gguf-q8_0").difference.mean_kl < 1e-4


def test_too_large_a_difference_is_refused_unless_a_budget_judges_it(base, tmp_path, monkeypatch):
    from dataclasses import replace

    monkeypatch.setitem(SCHEMES, "int4", replace(SCHEMES["int4"], bound=Bound(1e-9, 1.1)))
    with pytest.raises(IntegrityError, match=r"by scheme int4 differs too much.*Layer \d adds most"):
        quantized(base, tmp_path / "a", "int4")
    made = quantized(base, tmp_path / "b", "int4", budget=Budget.parse("quality>=0.9"))
    assert Budget.parse("quality>=0.9").is_met(made.difference)


def test_a_quantized_model_is_not_quantized_again(base, tmp_path):
    quantized(base, tmp_path / "out", "w8a8")
    with pytest.raises(UnsupportedError, match="quantized already"):
        quantized(tmp_path / "out", tmp_path / "again", "int4")


def difference(mean_kl=0.01, agreement=0.9, ratio=1.02):
    return Difference(400, agreement, mean_kl, 10.0, 10.0 * ratio, 0, 0.1)


def test_quality_is_one_for_the_same_predictions_and_zero_for_no_numbers():
    assert quality(difference(0.0)) == 1.0
    assert quality(difference(0.01)) == pytest.approx(0.990, abs=1e-3)
    assert quality(difference(float("nan"))) == 0.0
    assert measures(difference())["perplexity_ratio"] == pytest.approx(1.02)


def test_a_budget_holds_each_of_its_conditions():
    budget = Budget.parse("quality>=0.98, perplexity_ratio<1.05")
    assert budget.is_met(difference())
    assert not budget.is_met(difference(ratio=1.1))
    assert not budget.is_met(difference(mean_kl=float("nan")))
    assert budget.shortfall(difference(ratio=1.1)) == "perplexity_ratio 1.1 (wanted <1.05)"


@pytest.mark.parametrize(
    ("spelling", "told"), [("0.99", "another form"), ("kl<1", "no 'kl'"), ("quality>=x", "must be")]
)
def test_a_budget_of_another_form_is_refused(spelling, told):
    with pytest.raises(InputError, match=told):
        Budget.parse(spelling)


def test_the_front_has_those_that_none_surpasses_and_the_fastest_within_the_budget_is_chosen():
    small = Candidate("small", 50, difference(0.2), 30.0)
    good = Candidate("good", 100, difference(0.001), 20.0)
    large = Candidate("large", 120, difference(0.001), 19.5)
    slow = Candidate("slow", 60, difference(0.005), 10.0)
    tried = [small, good, large, slow]
    assert on_front(tried) == [small, good, slow]
    assert choose(tried, Budget.parse("quality>=0.99")) is good
    assert choose([large, good], Budget.parse("quality>=0.9")) is good  # as fast, and smaller
    assert choose(tried, Budget.parse("quality>=0.5")) is small
    assert choose(tried, Budget.parse("quality>=0.9999")) is None


def test_names_are_taken_in_any_case_and_near_ones_are_told():
    assert find_scheme("GGUF-Q4_K_M") is SCHEMES["gguf-q4_k_m"]
    with pytest.raises(InputError, match="gguf-q4_k_m"):
        find_scheme("q4_k_m")


def test_auto_stands_for_what_an_engine_here_computes_with(monkeypatch):
    names = {scheme.name for scheme in servable_here("cpu")}
    assert {"int4", "w8a8", "nf4", "gguf-q8_0", "gguf-q4_k_m"} <= names
    assert not {"int8", "fp8"} & names  # which vLLM has no CPU kernels for
    assert {"int8", "fp8"} <= {scheme.name for scheme in servable_here("cuda")}
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert [scheme.name for scheme in servable_here("cpu")] == ["nf4"]


@pytest.mark.parametrize(
    ("scheme", "told"),
    [("int8", "8 bits beside"), ("fp8", "floating point"), ("nf4", "bitsandbytes"), ("int4", ""), ("w8a8", "")],
)
def test_files_tell_whether_vllm_computes_with_them(base, tmp_path, scheme, told):
    quantized(base, tmp_path / "out", scheme)
    assert is_packed(tmp_path / "out")
    found = why_not_packed_in_vllm(tmp_path / "out", on_gpu=False)
    assert told in found
    assert bool(found) == bool(told) == ("cpu" not in SCHEMES[scheme].vllm_on)
    assert bool(why_not_packed_in_vllm(tmp_path / "out", on_gpu=True)) == ("cuda" not in SCHEMES[scheme].vllm_on)


def test_vllm_computes_with_packed_weights_in_16_bits_on_a_cpu_and_with_others_in_32(base, tmp_path):
    assert not is_packed(base)
    assert vllm_dtype_on_cpu(base) == "float32"
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "awq", "bits": 4}}')
    assert vllm_dtype_on_cpu(tmp_path) == "bfloat16"


@pytest.mark.parametrize(
    ("packed", "on_cpu", "on_gpu"),
    [
        ({"quant_method": "gptq", "bits": 4}, "", ""),
        ({"quant_method": "gptq", "bits": 8}, "weights in 8 bits beside inputs in 16", ""),
        ({"quant_method": "awq", "bits": 4}, "", ""),
        ({"quant_method": "hqq"}, "weights in the format of hqq", "weights in the format of hqq"),
        ({"load_in_4bit": True}, "", ""),
    ],
)
def test_files_that_others_quantized_are_known_too(tmp_path, packed, on_cpu, on_gpu):
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": packed}))
    assert why_not_packed_in_vllm(tmp_path, on_gpu=False) == on_cpu
    assert why_not_packed_in_vllm(tmp_path, on_gpu=True) == on_gpu
