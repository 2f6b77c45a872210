import pytest

from llamafarm_ray.training.decided import DecidedTraining
from llamafarm_ray.training.schedule import Schedule


def rates(num_steps, **training):
    schedule = Schedule.of(DecidedTraining(learning_rate=1.0, **training), num_steps)
    return [schedule.at(step) for step in range(num_steps)]


def test_linear():
    assert rates(6, lr_scheduler="linear", warmup_steps=2) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_cosine():
    assert rates(4, lr_scheduler="cosine", warmup_steps=0) == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_constant():
    assert rates(4, lr_scheduler="constant", warmup_steps=2) == pytest.approx([0.5, 1.0, 1.0, 1.0])


def test_the_ratio_is_rounded_up_to_steps():
    assert rates(40, lr_scheduler="constant", warmup_ratio=0.03)[:3] == pytest.approx([0.5, 1.0, 1.0])


def test_a_warm_up_longer_than_the_run_ends_at_the_peak():
    assert rates(3, lr_scheduler="cosine", warmup_steps=100) == pytest.approx([1 / 3, 2 / 3, 1.0])
