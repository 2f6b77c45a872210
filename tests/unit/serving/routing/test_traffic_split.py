"""Everybody gets the share that was asked for, and each caller the same variant for good."""

import subprocess
import sys

import pytest

from llamafarm_ray.serving.routing.traffic_split import Caller, gets_candidate, position

KEYS = [f"user:{number}" for number in range(10_000)]


def chosen(percent, rollout="bot@production#1"):
    return {key for key in KEYS if gets_candidate(rollout, key, percent)}


@pytest.mark.parametrize("percent", [1, 5, 25, 50, 99.5])
def test_10_000_requests_are_split_within_a_point(percent):
    assert abs(len(chosen(percent)) / 100 - percent) < 1
    anonymous = sum(gets_candidate("bot@production#1", "", percent) for _ in KEYS)
    assert abs(anonymous / 100 - percent) < 5 * (percent * (100 - percent)) ** 0.5 / 100  # five standard deviations


@pytest.mark.parametrize(("percent", "count"), [(0, 0), (100, 10_000)])
def test_none_and_all_are_exact(percent, count):
    assert len(chosen(percent)) == count
    assert sum(gets_candidate("x", "", percent) for _ in KEYS) == count


def test_who_saw_the_candidate_at_5_percent_still_does_at_25():
    assert chosen(1) < chosen(5) < chosen(25) < chosen(50)


def test_the_variant_is_the_same_in_another_process():
    code = (
        "from llamafarm_ray.serving.routing.traffic_split import position;"
        "print(*(position('r', f'user:{n}') for n in range(100)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [float(number) for number in printed.split()] == [position("r", key) for key in KEYS[:100]]


def test_rollouts_are_independent_of_each_other():
    both = chosen(25) & chosen(25, "bot@production#2")
    assert 0.05 < len(both) / len(KEYS) < 0.075


@pytest.mark.parametrize(
    ("caller", "by", "key"),
    [
        (Caller("a", "b"), "user", "user:a"),
        (Caller("a", "b"), "session", "session:b"),
        (Caller("a"), "session", "user:a"),
        (Caller(session="b"), "user", "session:b"),
        (Caller(), "user", ""),
    ],
)
def test_what_a_variant_sticks_to(caller, by, key):
    assert caller.key(by) == key


def test_any_text_is_a_key():
    assert 0 <= position("r", "user:\ud800\0é" * 1000) < 100
