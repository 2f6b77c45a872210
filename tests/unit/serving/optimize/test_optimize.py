"""Predictions follow the table of devices, and trials find the best settings by few and short measurements."""

import random
from dataclasses import replace

import pytest
from model_files import safetensors_bytes

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import DeploymentError, InputError
from llamafarm_ray.serving.optimize.devices import find_device, read_devices
from llamafarm_ray.serving.optimize.forms import makeable_forms, serves, settings_here, settings_on
from llamafarm_ray.serving.optimize.halving import successive_halving
from llamafarm_ray.serving.optimize.predict import Form, predict
from llamafarm_ray.training.estimate import read_tables

TABLE = read_devices()
PLAIN = Form("llama", "", False, 8_000_000_000, 16_000_000_000, 131_072)
GGUF = Form("llama-q4", "gguf-q4_k_m", True, 8_000_000_000, 4_900_000_000, 131_072, 0.99)
LOAD = {"concurrency": 1, "max_model_len": 4096, "prompt_tokens": 128}


@pytest.mark.parametrize("target", TABLE.devices)
def test_each_device_gets_a_section_that_deploy_reads(target):
    device = find_device(target)
    for form in (PLAIN, GGUF, *makeable_forms(device, PLAIN)):
        gpu = f"1x_{device.gpu}" if device.gpu else None
        section = settings_on(form, device, 4).deployment(max_model_len=4096, gpu=gpu)
        config = parse_config({"base_model": "llama", "deployment": section})
        assert (config.deployment.resources.gpu is not None) == (device.kind == "cuda" and not form.is_gguf)


def test_gpus_are_as_large_and_fast_as_in_the_table_of_training():
    trained_on = read_tables(None).devices
    for target, device in TABLE.devices.items():
        known = trained_on.get(target.removeprefix("nvidia-"))
        if known is not None:
            assert device.memory_gib == known.memory_gib
            assert device.tflops == max(known.tflops.values())


def test_writing_is_bound_by_the_bytes_that_are_read_and_reading_by_arithmetic():
    h100, t4 = find_device("nvidia-h100"), find_device("nvidia-t4")
    found = predict(PLAIN, h100, TABLE, **LOAD)
    assert found.tokens_per_s == pytest.approx(0.6 * 3350e9 / (16e9 + 128 * 131_072), rel=1e-3)
    assert found.first_token_s == pytest.approx(128 * 2 * 8e9 / (0.4 * 989e12), rel=1e-3)
    assert found.fits
    assert not predict(PLAIN, t4, TABLE, **LOAD).fits
    assert predict(PLAIN, h100, TABLE, **{**LOAD, "concurrency": 8}).tokens_per_s > 7 * found.tokens_per_s
    assert not predict(PLAIN, h100, TABLE, **{**LOAD, "concurrency": 200, "max_model_len": 131_072}).fits


def test_an_unknown_device_is_told_with_a_near_one():
    with pytest.raises(InputError, match="nvidia-h100"):
        find_device("nvidia-h10")


def test_apple_chips_serve_gguf_alone_and_cpus_what_vllm_computes_there(tmp_path):
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "bitsandbytes"}}')
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes())
    assert [serves(find_device("apple-m3"), form, None) for form in (PLAIN, GGUF)] == [False, True]
    assert [serves(find_device("cpu-amx"), form, tmp_path) for form in (PLAIN, GGUF)] == [False, True]
    assert [serves(find_device("nvidia-l4"), form, tmp_path) for form in (PLAIN, GGUF)] == [False, False]
    (tmp_path / "config.json").write_text("{}")
    assert [serves(find_device("nvidia-l4"), form, tmp_path) for form in (PLAIN, GGUF)] == [True, False]


def test_settings_that_are_tried_are_those_of_installed_engines(tmp_path):
    options = {"cores": 4, "has_gpu": False, "has_bf16": True, "concurrency": 2}
    every = frozenset({"vllm", "gguf"})
    plain = list(settings_here(PLAIN, tmp_path, engines=every, **options))
    assert {(one.engine, one.dtype) for one in plain} == {
        (engine, dtype) for engine in ("vllm", "transformers") for dtype in ("float32", "bfloat16")
    }
    assert [one.num_threads for one in settings_here(GGUF, tmp_path, engines=every, **options)] == [4, 2]
    assert list(settings_here(GGUF, tmp_path, engines=frozenset(), **options)) == []
    assert {one.engine for one in settings_here(PLAIN, tmp_path, engines=frozenset(), **options)} == {"transformers"}


def test_vllm_computes_with_quantized_weights_in_16_bits_on_every_cpu(tmp_path):
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    form = replace(PLAIN, scheme="int4")
    options = {"cores": 4, "has_gpu": False, "has_bf16": False, "concurrency": 2}
    found = settings_here(form, tmp_path, engines=frozenset({"vllm"}), **options)
    assert [(one.engine, one.dtype) for one in found] == [("vllm", "bfloat16"), ("transformers", "float32")]
    assert [settings_on(one, find_device("cpu-avx2"), 1).dtype for one in (PLAIN, form)] == ["float32", "bfloat16"]


def test_halving_finds_the_best_of_a_grid_in_fewer_tokens_than_the_grid_takes():
    noise = random.Random(0)
    rates = {arm: 10.0 + arm for arm in range(16)}
    spent = []

    def measure(arm, length):
        spent.append(length)
        return rates[arm] + noise.gauss(0, 8 / length)

    trials = successive_halving(list(rates), (8, 16, 32, 64), measure)
    assert rates[trials[0].arm] >= 0.95 * max(rates.values())
    assert sum(spent) < 0.55 * 64 * len(rates)
    assert trials[0].length == 64


def test_settings_that_fail_are_left_out_with_the_reason():
    def measure(arm, length):
        if arm == "broken":
            raise DeploymentError("It has no kernel.")
        return float(len(arm))

    trials = successive_halving(["broken", "a", "bb"], (8, 32), measure)
    assert (trials[0].arm, trials[0].length) == ("bb", 32)
    assert [trial.error for trial in trials if trial.arm == "broken"] == ["It has no kernel."]
    assert successive_halving(["broken"], (8, 32), measure)[0].score is None
