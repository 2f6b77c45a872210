"""Predictions follow the table of devices, and trials find the best settings by few and short measurements."""

import itertools
import math
import random
from dataclasses import fields, replace

import pytest
from model_files import safetensors_bytes

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import DeploymentError, InputError
from llamafarm_ray.serving.optimize.devices import find_device, read_devices
from llamafarm_ray.serving.optimize.forms import Settings, makeable_forms, serves, settings_here, settings_on
from llamafarm_ray.serving.optimize.halving import successive_halving
from llamafarm_ray.serving.optimize.options import THREADS, Axis, axes_of
from llamafarm_ray.serving.optimize.predict import Form, predict
from llamafarm_ray.serving.optimize.speed import Speed
from llamafarm_ray.serving.optimize.tuning import LENGTHS, find_fastest, tune
from llamafarm_ray.training.estimate import read_tables
from llamafarm_ray.workflows.deployments.optimize import MAX_TRIALS

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
    assert [one.num_threads for one in settings_here(GGUF, tmp_path, engines=every, **options)] == [4]
    threads = next(axis for axis in axes_of("gguf", cores=4, has_gpu=False) if axis.name == THREADS)
    assert threads.values == (2,)
    assert THREADS not in {axis.name for axis in axes_of("vllm", cores=4, has_gpu=True)}
    assert list(settings_here(GGUF, tmp_path, engines=frozenset(), **options)) == []
    assert {one.engine for one in settings_here(PLAIN, tmp_path, engines=frozenset(), **options)} == {"transformers"}


def test_vllm_computes_with_quantized_weights_in_16_bits_on_every_cpu(tmp_path):
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    form = replace(PLAIN, scheme="int4")
    options = {"cores": 4, "has_gpu": False, "has_bf16": False, "concurrency": 2}
    found = settings_here(form, tmp_path, engines=frozenset({"vllm"}), **options)
    assert [(one.engine, one.dtype) for one in found] == [("vllm", "bfloat16"), ("transformers", "float32")]
    assert [settings_on(one, find_device("cpu-avx2"), 1).dtype for one in (PLAIN, form)] == ["float32", "bfloat16"]


def test_keys_and_values_get_8_bits_where_16_do_not_fit_and_the_device_can():
    long = {**LOAD, "concurrency": 8, "max_model_len": 8192}
    l4, a10g = find_device("nvidia-l4"), find_device("nvidia-a10g")
    found = predict(PLAIN, l4, TABLE, **long)
    assert (found.fits, found.has_small_cache) == (True, True)
    assert not predict(PLAIN, a10g, TABLE, **long).fits
    assert not predict(PLAIN, l4, TABLE, **LOAD).has_small_cache
    section = settings_on(PLAIN, l4, 8, has_small_cache=True).deployment(max_model_len=8192, gpu="1x_l4")
    assert section["engine_kwargs"] == {"kv_cache_dtype": "fp8", "dtype": "bfloat16"}
    section = settings_on(GGUF, find_device("apple-m3"), 8, has_small_cache=True).deployment(max_model_len=8192)
    assert section["engine_kwargs"] == {
        "cache_type": "q8_0",
        "flash_attention": True,
        "n_parallel": 8,
        "n_threads": 4,
    }


def test_vllm_on_a_cpu_gets_the_memory_that_all_answers_need():
    settings = settings_on(PLAIN, find_device("cpu-amx"), 4)
    assert settings.deployment(max_model_len=8192)["engine_kwargs"]["kv_cache_memory_bytes"] == 4 * 2**30
    assert "kv_cache_memory_bytes" not in settings.deployment(max_model_len=512)["engine_kwargs"]


@pytest.mark.parametrize("engine", ["vllm", "transformers", "gguf"])
def test_each_option_that_is_tried_is_one_that_deploy_takes(engine):
    from llamafarm_ray.serving.deployment.engine_replica import _OPTIONS

    names = {axis.name for axis in axes_of(engine, cores=2, has_gpu=False)} - {THREADS}
    if engine == "vllm":
        from vllm.engine.arg_utils import EngineArgs

        assert names <= {one.name for one in fields(EngineArgs)}
    else:
        assert names <= set(_OPTIONS[engine])


AXES = (Axis(THREADS, (1,)), Axis("cache_type", ("q8_0",)), Axis("n_ubatch", (128, 64), "first_token_s"))


def speeds(gains):
    """A measurement in which each value of an option multiplies the rate and divides the time to the first token."""

    def measure(settings, length):
        rate, first = 100.0, 1.0
        for key in (*settings.options, (THREADS, settings.num_threads)):
            more, sooner = gains.get(key, (1.0, 1.0))
            rate, first = rate * more, first / sooner
        return Speed(first, rate)

    return measure


def test_options_are_kept_that_make_answers_faster_or_begin_sooner():
    begin = settings_on(GGUF, find_device("cpu-avx2"), 1)
    gains = {("cache_type", "q8_0"): (1.2, 1.0), ("n_ubatch", 128): (1.0, 1.2), ("n_ubatch", 64): (0.5, 3.0)}
    tuned = tune(begin, AXES, 16, speeds(gains))
    assert dict(tuned.settings.options) == {"cache_type": "q8_0", "flash_attention": True, "n_ubatch": 128}
    assert (tuned.settings.num_threads, tuned.tokens_per_s) == (8, pytest.approx(120.0))
    assert len(tuned.trials) == 5
    assert tune(begin, AXES, 16, speeds({(THREADS, 1): (1.02, 1.0)})).settings == begin  # no more than noise
    assert tune(begin, AXES, 16, speeds({(THREADS, 1): (1.2, 1.0)})).settings.num_threads == 1


@pytest.mark.parametrize("seed", range(10))
def test_the_chosen_settings_are_near_the_best_of_all_in_a_tenth_of_their_tokens(seed):
    kinds = [("gguf", None)] * 2 + [("vllm", "bfloat16")] * 3 + [("vllm", "float32")]
    kinds += [("transformers", dtype) for dtype in ("bfloat16", "float32")] * 3
    arms = [Settings(replace(PLAIN, reference=f"form-{n}"), *parts(kind)) for n, kind in enumerate(kinds)]
    generator, spent = random.Random(seed), []
    rates = {arm: generator.uniform(20, 100) for arm in arms[:8]} | {arm: generator.uniform(5, 15) for arm in arms[8:]}
    gains = {
        (axis.name, value): generator.uniform(0.6, 1.1) if axis.goal == "tokens_per_s" else 1.0
        for engine in ("gguf", "vllm", "transformers")
        for axis in axes_of(engine, cores=2, has_gpu=False)
        for value in axis.values
    }

    def rate(one):
        begin = replace(one, num_threads=2, options=())
        chosen = (*one.options, (THREADS, one.num_threads))
        return rates[begin] * math.prod(gains.get(option, 1.0) for option in chosen)

    def measure(one, length):
        spent.append(length)
        return Speed(1.0, rate(one) * generator.gauss(1.0, 0.01))

    def axes(engine):
        return axes_of(engine, cores=2, has_gpu=False)

    found = find_fastest(arms[:MAX_TRIALS], axes, measure).settings
    grid = [one for arm in arms for one in combinations(arm, axes(arm.engine))]
    assert rate(found) >= 0.95 * max(rate(one) for one in grid)
    assert sum(spent) <= 0.1 * LENGTHS[-1] * len(grid)


def parts(kind):
    engine, dtype = kind
    return engine, 2, dtype, 1


def combinations(settings, axes):
    for values in itertools.product(*((None, *axis.values) for axis in axes)):
        found = settings
        for axis, value in zip(axes, values, strict=True):
            found = found if value is None else found.with_value(axis.name, value)
        yield found


def test_an_option_that_an_engine_refuses_is_left_out_with_the_reason():
    def measure(settings, length):
        if "cache_type" in dict(settings.options):
            raise DeploymentError("It has no such cache.")
        return Speed(1.0, 100.0)

    begin = settings_on(GGUF, find_device("cpu-avx2"), 1)
    tuned = tune(begin, AXES, 16, measure)
    assert tuned.settings == begin
    assert [trial.error for trial in tuned.trials if trial.score is None] == ["It has no such cache."]


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
