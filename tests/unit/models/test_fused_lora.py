"""LoRA's layers computed by one function each give what peft's do."""

import contextlib
import copy
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from llamafarm_ray.models.adapters.fused_lora import use_fused_lora
from llamafarm_ray.training import worker


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(12, 24)
        self.second = torch.nn.Linear(24, 8, bias=False)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def wrapped(dtype=torch.float32, **options):
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": ["first", "second"], **options})
    model = get_peft_model(Small().to(dtype), config)
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return model


def results(model, dtype=torch.float32):
    """Return the output, the input's gradient and those of the trained weights."""
    x = torch.linspace(-1, 1, 2 * 5 * 12).reshape(2, 5, 12).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        output = model(x)
    output.float().square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None for gradient in gradients)
    return [output.detach(), x.grad, *gradients]


def test_outputs_and_gradients_are_those_of_peft():
    model = wrapped()
    fused = copy.deepcopy(model)
    assert use_fused_lora(fused) == 2
    torch.testing.assert_close(results(fused), results(model), rtol=1e-4, atol=1e-4)


def test_in_half_precision_it_is_as_near_to_full_precision_as_peft():
    model = wrapped(torch.bfloat16)
    fused, full = copy.deepcopy(model), copy.deepcopy(model).float()
    use_fused_lora(fused)
    for ours, theirs, exact in zip(
        results(fused, torch.bfloat16), results(model, torch.bfloat16), results(full), strict=True
    ):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        error, of_peft = ((each.float() - exact).norm() / exact.norm() for each in (ours, theirs))
        assert error <= 2 * of_peft + 1e-3


def test_a_disabled_or_merged_adapter_is_left_to_peft():
    fused, x = wrapped(), torch.ones(1, 12)
    use_fused_lora(fused)
    with_adapter = fused(x)
    with fused.disable_adapter():
        assert torch.equal(fused(x), fused.get_base_model()(x))
        assert not torch.allclose(fused(x), with_adapter)
    fused.merge_adapter()
    torch.testing.assert_close(fused(x), with_adapter)


@pytest.mark.parametrize(
    "options", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True, "target_modules": ["first"]}]
)
def test_layers_that_do_more_stay_as_they_are(options):
    assert use_fused_lora(wrapped(**options)) == 0


@pytest.mark.parametrize(("shards_weights", "is_fused"), [(False, True), (True, False)])
def test_a_worker_on_a_cpu_uses_them_where_it_has_all_weights(shards_weights, is_fused):
    model = wrapped()
    training = SimpleNamespace(fused_kernels="auto", gradient_checkpointing=False, compile=False)
    job = SimpleNamespace(training=training, base_model="base", packed=False)
    method = SimpleNamespace(load=lambda *_, **__: model, wrap=lambda model, **_: model)
    strategy = SimpleNamespace(
        loading=contextlib.nullcontext,
        precision=None,
        place=SimpleNamespace(device=torch.device("cpu")),
        shards_weights=shards_weights,
    )
    built = worker._build_model(job, method, SimpleNamespace(task="causal-lm"), strategy)
    assert use_fused_lora(built) == 2
    first = built.get_base_model().first
    assert hasattr(first.forward, "_of_peft")
    assert hasattr(first.forward._of_peft, "_of_peft") is is_fused


def test_without_an_adapter_nothing_changes():
    assert use_fused_lora(Small()) == 0
