"""Times on the command line: ISO 8601 or so long ago, local where no zone is named."""

import datetime as dt
import time

import pytest

from llamafarm_ray.cli.options import expiry, moment
from llamafarm_ray.cli.terminal import ago, local_time, number, size
from llamafarm_ray.errors import InputError
from llamafarm_ray.types import duration

NOW = dt.datetime(2026, 11, 17, 12, tzinfo=dt.UTC)


@pytest.fixture
def tokyo(monkeypatch):
    """A machine nine hours ahead of UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2025-11-17", "2025-11-16T15:00"),
        ("2025-11-17T14:00", "2025-11-17T05:00"),
        ("2025-11-17 14:00:30", "2025-11-17T05:00:30"),
        ("2025-11-17T14:00Z", "2025-11-17T14:00"),
        ("2025-11-17T14:00+02:00", "2025-11-17T12:00"),
    ],
)
def test_a_time_without_a_zone_is_local(tokyo, text, utc):
    assert moment(text) == dt.datetime.fromisoformat(f"{utc}+00:00")


def test_times_are_shown_in_the_local_zone(tokyo):
    assert local_time(NOW) == "2026-11-17 21:00"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("3d", 259200), ("1w", 604800)]
)
def test_so_long_ago_and_so_long_from_now(text, seconds):
    now = dt.datetime.now(dt.UTC)
    assert duration(text) == dt.timedelta(seconds=seconds)
    assert abs((now - moment(text)).total_seconds() - seconds) < 5
    assert abs((expiry(text) - now).total_seconds() - seconds) < 5


@pytest.mark.parametrize("text", ["", "tomorrow", "2h30m", "-2h", "999999d", "2026-13-01", "0001-01-01", "17.11.2026"])
def test_what_is_no_time_is_refused_with_an_example(tokyo, text):
    with pytest.raises(InputError, match="2026-11-17"):
        moment(text)


@pytest.mark.parametrize("text", ["", "2 fortnights", "1y", "h", "1.5h", "-1d"])
def test_what_is_no_length_is_refused_with_an_example(text):
    with pytest.raises(InputError, match="24h"):
        duration(text)


def test_the_future_has_no_history():
    later = (dt.datetime.now(dt.UTC) + dt.timedelta(days=1)).isoformat()
    with pytest.raises(InputError, match="has not come yet"):
        moment(later)
    assert expiry(later).isoformat() == later


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "just now"),
        (30, "just now"),
        (60, "1 min ago"),
        (3600, "60 min ago"),
        (7200, "2 h ago"),
        (86400 * 3, "3 days ago"),
        (86400 * 70, "2 months ago"),
        (86400 * 800, "2 years ago"),
    ],
)
def test_how_long_ago(seconds, said):
    assert ago(NOW - dt.timedelta(seconds=seconds), NOW) == said


@pytest.mark.parametrize(
    ("num_bytes", "said"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (7 * 10**12, "7 TB")]
)
def test_sizes_are_short(num_bytes, said):
    assert size(num_bytes) == said


def test_numbers_keep_what_matters():
    assert [number(value) for value in (None, 0.0, 0.891234, 1234.5)] == ["", "0", "0.8912", "1,234"]
