import pytest

from llamafarm_ray.pages import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.2, "7 s"), (61, "1 min 01 s"), (200, "3 min 20 s"), (3600, "1 h 00 min"), (86_399, "23 h 59 min")],
)
def test_lengths_of_time_are_for_people(seconds, text):
    assert duration(seconds) == text


def test_short_times_may_have_decimals():
    assert [duration(seconds, decimals=1) for seconds in (0.04, 59.94, 61)] == ["0.0 s", "59.9 s", "1 min 01 s"]
