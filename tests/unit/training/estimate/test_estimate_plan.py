"""What fits, what it takes, what is refused and what is said then."""

import pickle

import pytest
import yaml

from llamafarm_ray.config import MethodParameters
from llamafarm_ray.errors import InputError, UserError
from llamafarm_ray.training.estimate import (
    MARGIN,
    Machine,
    ModelShape,
    Setup,
    available_memory_bytes,
    check_before_start,
    check_fits,
    estimate_duration,
    estimate_memory,
    find_alternatives,
    flops_per_token,
    read_tables,
    recommend,
    verdict,
)

GIB = 1024**3
TABLES = read_tables()
LLAMA_7B = ModelShape.of_size("7b", TABLES)
A100 = Machine.of_table("a100-80gb", 8, TABLES)


def test_a_run_that_can_not_fit_is_refused_with_need_have_and_what_would_fit():
    with pytest.raises(UserError) as refused:
        check_fits(LLAMA_7B, Setup("full", batch_size=4), 24 * GIB)
    message, hint = refused.value.message, refused.value.hint
    assert "Method full of 7b" in message
    assert "24 GiB" in message
    assert "151 GiB" in message
    assert "activations" in message
    assert "4 x 2048 tokens" in message
    assert "fine_tuning.training.gradient_checkpointing true, fine_tuning.method lora" in hint
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)  # noqa: S301 - our own


def test_what_nothing_makes_fit_says_so():
    with pytest.raises(UserError) as refused:
        check_fits(ModelShape.of_size("405b", TABLES), Setup("lora"), 16 * GIB)
    assert "smaller base model" in refused.value.hint


def test_what_may_fit_is_let_through():
    need = estimate_memory(LLAMA_7B, Setup("lora"))
    assert check_fits(LLAMA_7B, Setup("lora"), need.total) == need
    assert verdict(need, int(need.total * (1 + MARGIN)) + 1) == "fits"
    assert verdict(need, need.total) == "tight"
    assert verdict(need, int(need.total * (1 - MARGIN)) - 1) == "too large"


def test_every_alternative_fits_and_none_asks_for_more_than_another():
    for setup in (
        Setup("full", strategy="ddp", num_workers=8),
        Setup("lora", batch_size=16),
        Setup("lora", strategy="deepspeed_zero3", num_workers=2, max_length=4096),
    ):
        found = find_alternatives(LLAMA_7B, setup, 24 * GIB)
        assert found
        for one in found:
            assert verdict(estimate_memory(LLAMA_7B, one.setup), 24 * GIB) == "fits"
            assert not any(other is not one and other.changes.items() <= one.changes.items() for other in found)


def test_alternatives_keep_the_number_of_rows_in_a_step():
    found = find_alternatives(LLAMA_7B, Setup("lora", batch_size=16, gradient_checkpointing=True), 24 * GIB)
    smaller = [one.setup for one in found if one.setup.batch_size < 16]
    assert smaller
    assert all(setup.batch_size * setup.gradient_accumulation_steps == 16 for setup in smaller)


def test_a_token_of_full_fine_tuning_costs_6_operations_a_weight():
    # https://arxiv.org/abs/2001.08361: 6 N, without embedding and attention.
    short = Setup("full", batch_size=1, max_length=16)
    weights = LLAMA_7B.num_parameters - LLAMA_7B.embedding_weights
    assert flops_per_token(LLAMA_7B, short) == pytest.approx(6 * weights, rel=0.01)


def test_blocks_below_the_adapted_ones_have_no_backward_pass():
    whole = Setup("lora", max_length=1024)
    layers = range(LLAMA_7B.num_layers // 2, LLAMA_7B.num_layers)
    upper = Setup("lora", MethodParameters(layers_to_transform=tuple(layers)), max_length=1024)
    saved = flops_per_token(LLAMA_7B, whole) - flops_per_token(LLAMA_7B, upper)
    assert saved == pytest.approx(LLAMA_7B.linear_weights, rel=0.1)  # 2 operations for each weight of half the blocks
    lowest = Setup("lora", MethodParameters(layers_to_transform=(0,)), max_length=1024)
    assert flops_per_token(LLAMA_7B, lowest) > flops_per_token(LLAMA_7B, upper)
    need, of_all = estimate_memory(LLAMA_7B, upper), estimate_memory(LLAMA_7B, whole)
    assert need.activations < 0.6 * of_all.activations
    assert need.gradients == pytest.approx(of_all.gradients / 2, rel=0.01)


def test_checkpointing_adds_a_forward_pass_and_frozen_weights_save_one():
    def flops(method, checkpointing):
        return flops_per_token(LLAMA_7B, Setup(method, gradient_checkpointing=checkpointing, max_length=16))

    full = flops("full", checkpointing=False)
    assert flops("full", checkpointing=True) == pytest.approx(full * 4 / 3, rel=0.01)
    assert flops("lora", checkpointing=False) == pytest.approx(full * 2 / 3, rel=0.02)


def test_time_and_cost_grow_with_tokens_and_cost_is_time_times_price():
    setup = Setup("lora", strategy="ddp", num_workers=8)
    once = estimate_duration(LLAMA_7B, setup, A100, TABLES, num_tokens=10**7)
    twice = estimate_duration(LLAMA_7B, setup, A100, TABLES, num_tokens=2 * 10**7)
    assert twice.seconds == pytest.approx(2 * once.seconds)
    assert once.dollars == pytest.approx(A100.price_per_hour * 8 * once.seconds / 3600)
    assert once.seconds == pytest.approx(10**7 / once.tokens_per_s)


def test_recommended_runs_fit_and_the_fastest_comes_first():
    found = recommend(LLAMA_7B, Setup("lora", num_workers=8, strategy="ddp"), A100, TABLES, num_tokens=10**6)
    assert {option.setup.method for option in found} >= {"lora", "qlora", "full"}
    assert all(verdict(option.memory, A100.memory_bytes) == "fits" for option in found)
    seconds = [option.duration.seconds for option in found]
    assert seconds == sorted(seconds)


def test_offloading_is_recommended_only_where_nothing_else_fits():
    shape = ModelShape.of_size("13b", TABLES)
    small = Machine.of_table("a10g", 4, TABLES)
    found = recommend(shape, Setup("full", num_workers=4, strategy="ddp"), small, TABLES, num_tokens=10**6)
    assert {option.setup.offload for option in found if option.setup.method == "full"} <= {"cpu"}
    assert {option.setup.offload for option in found if option.setup.method == "qlora"} == {"none"}


def test_every_device_has_what_estimates_need():
    for device in TABLES.devices.values():
        assert device.memory_bytes > 10 * GIB
        assert device.flops("bf16") >= device.flops("fp32") > 0
        assert device.price is None or device.instance
    assert TABLES.prices.as_of
    assert TABLES.prices.source


def test_a_users_prices_replace_all_of_ours(tmp_path):
    file = tmp_path / "prices.yaml"
    new = {"name": "Card", "memory_gib": 31.0, "tflops": {"fp32": 100, "bf16": 200}, "price": 0.5}
    body = {"prices": {"as_of": "2026-11", "source": "our contract"}, "devices": {"h100": {"price": 2.5}, "card": new}}
    file.write_text(yaml.safe_dump(body))
    tables = read_tables(file)
    assert tables.device("H100").price == 2.5
    assert tables.device("card").memory_gib == 31.0
    assert tables.device("l4").price is None
    assert "our contract" in Machine.of_table("h100", 1, tables).price_note


@pytest.mark.parametrize("text", ["", "[1, 2]", "devices: {h100: {price: much}}", "{"])
def test_a_bad_table_of_prices_is_refused(tmp_path, text):
    (tmp_path / "prices.yaml").write_text(text)
    with pytest.raises(InputError, match=r"prices\.yaml"):
        read_tables(tmp_path / "prices.yaml")


def test_an_unknown_device_is_refused_with_a_near_name():
    with pytest.raises(InputError) as refused:
        Machine.of_table("a100-80", 1, TABLES)
    assert "a100-80gb" in refused.value.hint


def test_bf16_is_as_slow_as_fp32_on_a_device_without_it():
    t4 = Machine.of_table("t4", 1, TABLES)
    assert not t4.has_bf16
    assert t4.reached_flops("bf16") == t4.reached_flops("fp32")


def test_this_machine_has_memory_and_a_speed():
    assert 0 < available_memory_bytes() < 2**45
    one, two = Machine.this_one(1, TABLES), Machine.this_one(2, TABLES)
    assert one.reached_flops("fp32") > 1e8
    assert two.num_devices >= 1


def test_before_a_start_what_can_not_fit_is_refused_and_what_is_tight_is_said(base_model):
    setup, reasons = Setup("lora", batch_size=1, max_length=8), []
    need = estimate_memory(ModelShape.of_folder(base_model), setup)

    def check(gpu_memory_bytes):
        return check_before_start(base_model, setup, gpu_memory_bytes=gpu_memory_bytes, num_nodes=1, reasons=reasons)

    assert check(2 * need.total) == need
    assert reasons == []
    assert check(need.total) == need
    assert "tight" in reasons[0]
    with pytest.raises(UserError, match="needs about"):
        check(need.total // 2)


def test_before_a_start_what_can_not_be_estimated_is_not_refused(tmp_path, base_model):
    (tmp_path / "config.json").write_text('{"num_local_experts": 8}')
    many = {"gpu_memory_bytes": 0, "num_nodes": 4, "reasons": []}
    assert check_before_start(tmp_path, Setup("lora"), gpu_memory_bytes=1, num_nodes=1, reasons=[]) is None
    assert check_before_start(base_model, Setup("lora", device="cpu", precision="fp32"), **many) is None
