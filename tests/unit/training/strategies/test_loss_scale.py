"""fp16's loss scale under DeepSpeed, which has fp16 on GPUs only: its own scaler is driven here without an engine."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llamafarm_ray.training.decided import DecidedTraining
from llamafarm_ray.training.methods import Precision
from llamafarm_ray.training.strategies import LossScale, Place, find_strategy

PLACE = Place(rank=0, num_workers=1, device=torch.device("cpu"))
WINDOW = 4


@pytest.fixture(scope="module")
def scaler_module():
    find_strategy("deepspeed_zero2")
    from deepspeed.runtime.fp16 import loss_scaler

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_scaler.dist, "get_rank", lambda: 1)  # it asks who may log
        yield loss_scaler


def zero(module):
    """A strategy around a new scaler, with DeepSpeed's own settings but a shorter window."""
    made = find_strategy("deepspeed_zero2")(PLACE, Precision("fp16"), DecidedTraining())
    scaler = module.DynamicLossScaler(
        init_scale=2.0**16, scale_window=WINDOW, min_scale=1, delayed_shift=2, consecutive_hysteresis=False
    )
    made.model = SimpleNamespace(optimizer=SimpleNamespace(loss_scaler=scaler))
    return made


def drive(strategy, overflows):
    scales = []
    for overflow in overflows:
        strategy.model.optimizer.loss_scaler.update_scale(overflow)
        scales.append(strategy.loss_scale())
    return scales


steps = st.lists(st.sampled_from([False, False, False, True]), max_size=14)


@given(before=steps, after=steps)
def test_a_scale_that_was_put_back_goes_on_as_it_would_have(scaler_module, before, after):
    first, second = zero(scaler_module), zero(scaler_module)
    drive(first, before)
    second.set_loss_scale(first.loss_scale())
    assert second.loss_scale() == first.loss_scale()
    assert drive(second, after) == drive(first, after)


def test_what_deepspeed_forgives_and_counts_is_in_it(scaler_module):
    strategy = zero(scaler_module)
    assert strategy.loss_scale() == LossScale(2.0**16, good_steps=0, forgiven=1)
    assert drive(strategy, [False, False, True, True]) == [
        LossScale(2.0**16, 1, 1),
        LossScale(2.0**16, 2, 1),
        LossScale(2.0**16, 0, 0),
        LossScale(2.0**15, 0, 0),
    ]


def test_torch_goes_on_from_what_deepspeed_counted_and_the_other_way_round(scaler_module, make_strategy):
    _, single = make_strategy("lora", precision="fp16")
    single.set_loss_scale(LossScale(2.0**12, good_steps=4321, forgiven=0))
    assert single.loss_scale() == LossScale(2.0**12, good_steps=321)
    strategy = zero(scaler_module)
    strategy.set_loss_scale(single.loss_scale())
    assert strategy.loss_scale() == LossScale(2.0**12, good_steps=321, forgiven=1)


def test_nothing_is_scaled_in_other_formats(make_strategy):
    _, single = make_strategy("lora")
    single.set_loss_scale(LossScale(4.0))
    assert single.loss_scale() is None
