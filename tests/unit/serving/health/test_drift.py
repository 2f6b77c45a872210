"""Requests that stay alike raise no alarm; what changes is found soon, and only if it matters."""

import dataclasses
import math

import numpy as np
import pytest
from simulated_requests import blocks_of, drawn_block, drawn_week, request

from llamafarm_ray.serving.health.exact import log_factorial, shares_differ
from llamafarm_ray.serving.health.looks import Plan, examine
from llamafarm_ray.serving.journal.sketch import Sketch

PLAN = Plan(reference_s=600.0)


def names(alarms):
    return {alarm.difference.signal.name for alarm in alarms}


def examined(before, after, num_before=1000, num_after=500, seed=1, rate=(None, None)):
    """Look at requests that change after ``num_before``."""
    rng = np.random.default_rng(seed)
    old = blocks_of([request(rng, **before) for _ in range(num_before)], rate=rate[0])
    new = blocks_of([request(rng, **after) for _ in range(num_after)], start_s=num_before, rate=rate[1])
    return examine([*old, *new], PLAN)


def test_the_exact_test_gives_fishers_published_values():
    # Fisher's tea tasting, and Agresti's one-sided value for 3 of 4.
    assert shares_differ(3, 4, 1, 4, one_sided=True)[0] == pytest.approx(17 / 70)
    assert shares_differ(4, 4, 0, 4)[0] == pytest.approx(2 / 70)
    assert shares_differ(0, 10, 0, 1000)[0] == 1.0
    many = shares_differ([5, 50], 100, [50, 500], 1000)
    assert many.tolist() == pytest.approx([1.0, 1.0], abs=0.2)


def test_factorials_are_exact_where_the_series_takes_over():
    for number in (0, 1, 20, 31, 32, 33, 170, 5000):
        assert log_factorial(number) == pytest.approx(math.lgamma(number + 1), rel=1e-12, abs=1e-12)


def test_weeks_in_which_nothing_changes_raise_no_alarm():
    rng = np.random.default_rng(2)
    weeks = [examine(drawn_week(rng, 4000)) for _ in range(6)]
    assert [names(week.first) for week in weeks] == [set()] * 6
    assert all(week.num_looks >= 8 for week in weeks)


def test_chance_alone_would_raise_alarms_without_the_correction():
    rng = np.random.default_rng(2)
    loose = Plan(alpha=50.0)
    assert any(examine(drawn_week(rng, 4000), loose).first for _ in range(6))


def test_a_planted_shift_of_topic_is_found_within_500_requests():
    found = examined({"topic": "shop"}, {"topic": "garden"})
    (alarm,) = [one for one in found.first if one.difference.signal.name == "topic"]
    assert alarm.num_later <= 500
    assert names(found.first) == {"topic"}


def test_a_shift_that_begins_inside_a_window_is_found_within_500_requests():
    rng = np.random.default_rng(4)
    topics = ["shop"] * 1125 + ["garden"] * 500
    found = examine(blocks_of([request(rng, topic=topic) for topic in topics]), PLAN)
    (alarm,) = [one for one in found.first if one.difference.signal.name == "topic"]
    assert alarm.num_later - 125 <= 500


@pytest.mark.parametrize(
    ("after", "signal"),
    [
        ({"failed": 0.2}, "failed"),
        ({"empty": 0.2}, "empty"),
        ({"declined": 0.4}, "declined"),
        ({"latency_s": 1.5}, "latency"),
        ({"german": 0.6}, "language"),
    ],
)
def test_each_change_is_found_by_its_signal(after, signal):
    assert names(examined({}, after).first) == {signal}


@pytest.mark.parametrize(("loss", "found"), [(2.5, {"answer_loss"}), (0.4, {"answer_loss"}), (1.0, set())])
def test_sampled_answers_that_the_model_finds_less_or_more_probable_are_found(loss, found):
    after = examined({"loss": 1.0}, {"loss": loss}, num_after=2000)
    assert names(after.first) == found
    assert after.window.answer_loss.total() < 0.3 * after.window.num_answered


def test_bad_ratings_are_found():
    rng = np.random.default_rng(1)
    chances = rng.uniform(0.1, 0.9, 64)
    old = [drawn_block(rng, at * 900, at * 900 + 899, chances) for at in range(100)]
    new = [drawn_block(rng, at * 900, at * 900 + 899, chances, disliked=0.9) for at in range(100, 140)]
    assert names(examine([*old, *new]).first) == {"disliked"}


def test_faster_answers_and_fewer_failures_are_no_alarm():
    assert examined({"failed": 0.2, "latency_s": 1.5}, {"failed": 0.0}).first == ()


def test_a_certain_difference_that_is_too_small_to_matter_is_no_alarm():
    rng = np.random.default_rng(3)
    signs = np.full(64, 0.5)
    old, new = Sketch(0, 90000), Sketch(90001, 200000)
    for sketch, share in ((old, 0.5), (new, 0.52)):
        block = drawn_block(rng, sketch.start_s, sketch.end_s, signs)
        sketch.num_answered = sketch.num_signed = 1_000_000
        sketch.signs = np.full(64, int(share * 1_000_000))
        sketch.prompt_tokens, sketch.wait = block.prompt_tokens, block.wait
    assert shares_differ(520_000, 1_000_000, 500_000, 1_000_000)[0] < 1e-9
    assert examine([old, new]).first == ()


def test_too_few_requests_say_so_and_raise_nothing():
    rng = np.random.default_rng(5)
    few = examine(blocks_of([request(rng) for _ in range(120)]))
    assert (few.is_reference_whole, few.num_requests, few.window, few.first) == (False, 120, None, ())
    none = examine([])
    assert (none.is_reference_whole, none.num_requests) == (False, 0)


def test_a_reference_spans_a_day():
    rng = np.random.default_rng(6)
    fast = blocks_of([request(rng) for _ in range(1500)], every_s=1.0)
    assert not examine(fast).is_reference_whole
    assert examine(fast, dataclasses.replace(PLAN, reference_s=100.0)).is_reference_whole


def test_an_alarm_that_is_over_is_past_and_no_longer_current():
    rng = np.random.default_rng(7)
    shares = [0.01] * 1000 + [0.3] * 500 + [0.01] * 1000
    found = examine(blocks_of([request(rng, failed=share) for share in shares]), PLAN)
    assert names(found.first) == {"failed"}
    assert found.current == ()
