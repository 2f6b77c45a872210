"""Memory from first principles: known figures, what must grow or shrink, and what autograd really saves."""

import dataclasses
import json

import pytest

from llamafarm_ray.config import METHODS, MethodParameters
from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.training.estimate import ModelShape, Setup, estimate_memory, read_tables
from llamafarm_ray.training.estimate.activations import Activations
from llamafarm_ray.training.estimate.trained import Trained

GB = 1e9
LLAMA_7B = ModelShape.of_size("7b", read_tables())
STAGES = ("ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")


def memory(method="lora", shape=LLAMA_7B, **settings):
    return estimate_memory(shape, Setup(method, **settings))


@pytest.mark.parametrize(
    ("size", "billions"),
    [("0.5b", 0.494), ("1b", 1.236), ("7b", 6.738), ("8b", 8.030), ("13b", 13.016), ("70b", 70.55)],
)
def test_known_sizes_have_the_parameters_that_their_model_cards_say(size, billions):
    assert ModelShape.of_size(size, read_tables()).num_parameters / GB == pytest.approx(billions, rel=1e-3)


def test_full_fine_tuning_with_adamw_takes_16_bytes_a_parameter():
    # ZeRO's paper counts 16 bytes too; a 7B model is usually said to need 112 GB before activations.
    found = memory("full", precision="fp32")
    states = found.weights + found.optimizer + 4 * LLAMA_7B.num_parameters
    assert states == 16 * LLAMA_7B.num_parameters
    assert states / GB == pytest.approx(108, abs=1)


def test_zero_shares_what_its_paper_says():
    # https://arxiv.org/abs/1910.02054, figure 1: 7.5B in 16 bits with Adam on 64 GPUs, 120, 31.4, 16.6 and 1.9 GB.
    expected = {"deepspeed_zero1": 31.4, "deepspeed_zero2": 16.6, "deepspeed_zero3": 1.9}
    per_parameter = 7.5e9 / LLAMA_7B.num_parameters
    for strategy, gigabytes in expected.items():
        run = Setup(
            "full", strategy=strategy, num_workers=64, batch_size=1, max_length=8, gradient_accumulation_steps=2
        )
        found = estimate_memory(LLAMA_7B, run)
        states = (found.weights + found.gradients + found.optimizer) * per_parameter
        assert states / GB == pytest.approx(gigabytes, rel=0.02), strategy


def test_a_4_bit_7b_model_takes_about_4_gb():
    weights = memory("qlora").weights - 4 * Trained(LLAMA_7B, "qlora", MethodParameters()).num_parameters
    assert 3.8 < weights / GB < 4.6  # bitsandbytes: 3.9 GB with embedding and head in 16 bits, which are fp32 here


def test_double_quantisation_saves_what_its_paper_says():
    # https://arxiv.org/abs/2305.14314: 0.37 bits a parameter.
    plain = memory("qlora", parameters=MethodParameters(double_quantization=False)).weights
    saved = (plain - memory("qlora").weights) * 8 / LLAMA_7B.linear_weights
    assert saved == pytest.approx(0.373, abs=0.001)


def test_lora_trains_as_many_weights_as_peft_says():
    # peft's own count for Llama-2-7B with rank 16 on all linear layers.
    assert Trained(LLAMA_7B, "lora", MethodParameters(r=16)).num_parameters == 39_976_960
    only_two = MethodParameters(r=8, target_modules=("q_proj", "v_proj"))
    assert Trained(LLAMA_7B, "lora", only_two).num_parameters == 4_194_304


@pytest.mark.parametrize("method", METHODS)
def test_larger_batches_and_longer_rows_take_more(method):
    sizes = [memory(method, batch_size=size).total for size in (1, 2, 4, 8)]
    lengths = [memory(method, max_length=length).total for length in (512, 1024, 2048)]
    assert sizes == sorted(set(sizes))
    assert lengths == sorted(set(lengths))


@pytest.mark.parametrize("method", [method for method in METHODS if method != "prefix_tuning"])
def test_checkpointing_lowers_memory(method):
    assert memory(method, gradient_checkpointing=True).total < memory(method).total


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_stage_of_zero_takes_no_more_than_the_one_before(precision):
    totals = [
        memory("full", strategy=stage, num_workers=8, batch_size=1, max_length=512, precision=precision).total
        for stage in STAGES
    ]
    assert totals == sorted(totals, reverse=True)


def test_more_workers_take_less_each_with_zero_only():
    def totals(strategy):
        return [memory("full", strategy=strategy, num_workers=number).total for number in (2, 4, 8)]

    assert totals("deepspeed_zero3") == sorted(set(totals("deepspeed_zero3")), reverse=True)
    assert len(set(totals("ddp"))) == 1


def test_methods_are_in_the_order_that_their_papers_promise():
    same = {"batch_size": 1, "max_length": 512}
    assert memory("qlora", **same).total < memory("lora", **same).total < memory("full", **same).total


def test_offloading_moves_optimizer_state_and_weights_to_the_host():
    plain = memory("full", strategy="deepspeed_zero3", num_workers=8)
    moved = memory("full", strategy="deepspeed_zero3", num_workers=8, offload="cpu")
    assert moved.optimizer == moved.weights == 0
    assert moved.host - plain.host >= plain.optimizer + plain.weights
    on_disk = memory("full", strategy="deepspeed_zero3", num_workers=8, offload="nvme")
    assert on_disk.host < moved.host


def test_logits_are_counted_where_tokens_are_trained():
    all_of_them = memory(batch_size=1, precision="fp32", max_length=64)
    none = memory(batch_size=1, precision="fp32", max_length=64, logit_positions=0)
    assert all_of_them.logits == 12 * 64 * 32000
    assert none.logits == 0


def test_what_can_not_be_combined_is_refused():
    with pytest.raises(UnsupportedError, match="qlora"):
        memory("qlora", strategy="deepspeed_zero3", num_workers=2)
    with pytest.raises(UnsupportedError, match="prefix"):
        memory("prefix_tuning", gradient_checkpointing=True)
    with pytest.raises(InputError, match="'loraa'"):
        memory("loraa")


def test_a_config_without_dimensions_or_with_experts_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InputError, match="hidden_size"):
        ModelShape.of_folder(tmp_path)
    with pytest.raises(UnsupportedError, match="mixture of experts"):
        ModelShape.of_config({"num_local_experts": 8}, "mixtral")
    with pytest.raises(InputError, match="Known sizes"):
        _ = ModelShape.of_size("2000b", read_tables())
    assert ModelShape.of_size("base", read_tables()) is None


def test_a_shape_has_as_many_parameters_as_the_model(base_model):
    from llamafarm_ray.models.loading import inspect_architecture

    assert ModelShape.of_folder(base_model).num_parameters == inspect_architecture(base_model).num_parameters


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_activations_are_what_autograd_saves(base_model, method, precision):
    parameters = MethodParameters()
    batch_size, length = 4, 128
    shape = ModelShape.of_folder(base_model)
    setup = Setup(method, parameters, precision=precision, batch_size=batch_size, max_length=length, device="cpu")
    saved = saved_bytes(base_model, setup)
    assert Activations(shape, setup).saved == pytest.approx(saved, rel=0.04)


@pytest.mark.parametrize(
    ("parameters", "settings"),
    [
        (MethodParameters(lora_dropout=0.1), {}),
        (MethodParameters(r=8, target_modules=("q_proj", "v_proj")), {}),
        (MethodParameters(layers_to_transform=(1,)), {}),
        (MethodParameters(layers_to_transform=(0,)), {}),
        (MethodParameters(adapter_type="pfeiffer", bottleneck_dim=24, non_linearity="gelu"), {"method": "adapter"}),
    ],
    ids=["dropout", "two targets", "the upper block", "the lower block", "pfeiffer"],
)
def test_activations_of_variants_are_what_autograd_saves(base_model, parameters, settings):
    setup = Setup("lora", parameters, precision="fp32", batch_size=4, max_length=128, device="cpu")
    setup = dataclasses.replace(setup, **settings)
    shape = ModelShape.of_folder(base_model)
    assert Activations(shape, setup).saved == pytest.approx(saved_bytes(base_model, setup), rel=0.05)


def saved_bytes(folder, setup):
    """Storage that autograd keeps after a forward pass, without weights, indices and logits."""
    import torch

    from llamafarm_ray.training.methods import Precision, find_method

    torch.manual_seed(0)
    method = find_method(setup.method)(setup.parameters)
    precision, device = Precision(setup.precision), torch.device("cpu")
    model = method.wrap(method.load(folder, precision=precision, device=device), base_model=folder)
    model.train()
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    ids = torch.randint(5, 100, (setup.batch_size, setup.max_length))
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=setup.is_low)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=1).logits
    del logits
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    return sum(size for pointer, size in storages.items() if pointer not in known)
