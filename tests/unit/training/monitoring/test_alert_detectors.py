"""What raises an alert, and what doesn't."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import ConfigError
from llamafarm_ray.training.monitoring.alerts import EarlyStopping, Limits, RunWatch, Smoothed
from llamafarm_ray.training.monitoring.alerts.detectors import WARM_UP_STEPS

LOSSES = st.floats(min_value=0, max_value=50, allow_nan=False)


def alerts_of(watch, losses, first=1):
    return [alert for step, loss in enumerate(losses, first) for alert in watch.step(step, loss)]


@given(st.lists(LOSSES, max_size=80), st.floats(min_value=0.01, max_value=5))
def test_a_loss_that_never_rises_raises_nothing(losses, threshold):
    watch = RunWatch(Limits(loss_threshold=threshold, divergence=True))
    assert alerts_of(watch, sorted(losses, reverse=True)) == []


@given(
    st.floats(min_value=0, max_value=20), st.floats(min_value=0.05, max_value=5), st.floats(min_value=1.5, max_value=9)
)
def test_a_rise_that_stays_is_noticed_within_its_smoothing_and_once(level, threshold, times):
    watch = RunWatch(Limits(loss_threshold=threshold, divergence=False))
    assert alerts_of(watch, [level] * 60) == []
    found = alerts_of(watch, [level + times * threshold] * 200, first=61)
    assert [alert.kind for alert in found] == ["loss_threshold"]
    # After n steps at the new level, the mean has 1 - 0.9**n of the rise.
    needed = math.ceil(math.log(1 - 1 / times) / math.log(0.9)) + 2
    assert 61 <= found[0].step <= 60 + needed
    assert found[0].value - found[0].limit == pytest.approx(0, abs=times * threshold)


@given(st.lists(LOSSES, max_size=200), st.floats(min_value=0.01, max_value=5))
def test_an_alert_is_raised_only_above_its_limit_and_again_only_after_half_of_it(losses, threshold):
    watch = RunWatch(Limits(loss_threshold=threshold, divergence=False))
    found = {alert.step for alert in alerts_of(watch, losses)}
    smoothed, best, is_on, expected = Smoothed(), math.inf, False, set()
    for step, loss in enumerate(losses, 1):
        mean = smoothed.add(loss)
        if step >= WARM_UP_STEPS:
            best = min(best, mean)
            if not is_on and mean - best > threshold:
                expected.add(step)
                is_on = True
            elif is_on and mean - best <= threshold / 2:
                is_on = False
    assert found == expected


def test_a_single_bad_batch_raises_nothing():
    watch = RunWatch(Limits(loss_threshold=0.5))
    assert alerts_of(watch, [2.0] * 50 + [5.0] + [2.0] * 50) == []


def test_an_alert_comes_again_after_it_has_cleared():
    watch = RunWatch(Limits(loss_threshold=0.5, divergence=False))
    wave = [2.0] * 60 + [3.5] * 60
    assert [alert.step > 60 for alert in alerts_of(watch, wave * 2)] == [True, True]


def test_a_loss_above_its_beginning_has_diverged():
    watch = RunWatch(Limits())
    falling = [3 - index / 25 for index in range(50)]
    assert alerts_of(watch, falling) == []
    assert alerts_of(watch, [1.9] * 50, first=51) == [], "worse than its best by far, but better than at the start"
    found = alerts_of(watch, [6.0] * 50, first=101)
    assert [alert.kind for alert in found] == ["divergence"]
    assert "diverged" in found[0].text
    assert alerts_of(RunWatch(Limits(divergence=False)), [*falling, *[6.0] * 50]) == []


@given(st.lists(st.floats(min_value=0.1, max_value=9), min_size=1, max_size=30), st.floats(min_value=0.01, max_value=1))
def test_quality_is_compared_with_the_best_before(losses, share):
    watch = RunWatch(Limits(quality_degradation=share))
    best, is_on = math.inf, False
    for step, loss in enumerate(losses):
        best = min(best, loss)
        worse, limit = loss - best, share * best
        expected = not is_on and worse > limit
        is_on = worse > limit * (0.5 if is_on else 1)
        assert bool(watch.quality(step, "validation loss", loss)) == expected


def test_a_score_falls_where_a_loss_rises():
    watch = RunWatch(Limits(quality_degradation=0.1))
    assert watch.quality(1, "accuracy", 0.8, higher_is_better=True) == []
    assert watch.quality(2, "accuracy", 0.9, higher_is_better=True) == []
    assert watch.quality(2, "validation loss", 1.0) == [], "each measure has a best of its own"
    [alert] = watch.quality(3, "accuracy", 0.7, higher_is_better=True)
    assert alert.kind == "quality_degradation"
    assert alert.limit == pytest.approx(0.81)
    assert "22.2%" in alert.text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_an_alert_of_its_own_and_leaves_the_others_alone(value):
    watch = RunWatch(Limits(loss_threshold=0.1, quality_degradation=0.1))
    found = alerts_of(watch, [1.0] * 20 + [value] * 5 + [1.0] * 20)
    assert [(alert.kind, alert.step) for alert in found] == [("nan", 21)]


def test_a_stall_is_said_once_and_again_after_a_step():
    watch = RunWatch(Limits())
    assert watch.idle(5, 59, 60) == []
    assert [alert.kind for alert in watch.idle(5, 61, 60)] == ["stall"]
    assert watch.idle(5, 90, 60) == []
    assert watch.idle(6, 0, 60) == []
    assert [alert.step for alert in watch.idle(6, 61, 60)] == [6]


def test_early_stopping_waits_for_as_many_validations_as_it_is_told():
    stopping = EarlyStopping(patience=3, least_gain=0.01)
    losses = [2.0, 1.0, 0.995, 1.2, math.nan, 0.5]
    assert [stopping.update(step, loss) for step, loss in enumerate(losses)] == [
        False,
        False,
        False,
        False,
        True,
        False,
    ]
    assert (stopping.best, stopping.best_step, stopping.num_worse) == (0.5, 5, 0)


def alerting(**values):
    return parse_config({"monitoring": {"alerting": values}}).monitoring.alerting


def test_what_ends_a_run_is_a_choice():
    assert alerting().stop_kinds == ()
    assert alerting(stop=True).stop_kinds == ("loss_threshold", "quality_degradation", "divergence")
    assert alerting(stop=["divergence"]).stop_kinds == ("divergence",)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stop": ["loss_threshold"]}, "alerting.stop: lists loss_threshold"),
        ({"stop": ["divergence"], "divergence": False}, "alerting.stop: lists divergence"),
        ({"stop": ["stall"]}, "stop"),
        ({"webhook": "hooks.slack.com/x"}, "alerting.webhook"),
        ({"webhook": "https://a/b", "webhook_env": "HOOK"}, "alerting.webhook_env"),
        ({"webhook_env": "https://a/b"}, "alerting.webhook_env"),
        ({"email": {"to": [], "sender": "a@b", "server": "s"}}, "email.to"),
        ({"email": {"to": ["nobody"], "sender": "a@b", "server": "s"}}, "email.to"),
        ({"email": {"to": ["a@b"], "sender": "a@b", "server": "s", "username": "u"}}, "email.username"),
        (
            {
                "email": {
                    "to": ["a@b"], "sender": "a@b", "server": "s",
                    "username": "u", "password_env": "P", "security": "none",
                }
            },
            "in the clear",
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_the_alerts_is_named(values, said):
    with pytest.raises(ConfigError) as raised:
        alerting(**values)
    assert said in str(raised.value)
