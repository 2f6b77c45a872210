"""kill -9 of the writing process in every step of it, before and after writes, on a folder and on an object store.

The long tier kills it at 200 points; on an object store these are cut into parts.
"""

import pytest
from registry_crash import NUM_STEPS, busy_bucket, crash_at_points  # noqa: F401  (a fixture)
from s3 import bucket, s3_server  # noqa: F401  (fixtures)

LOCAL_POINTS, S3_POINTS = 130, 72
ALL = set(range(NUM_STEPS))
ONE_OF_A_KIND = {0, 1, 7, 12, 16}
"""Register, promote, collect, register a file that is sent in parts, pull it. Rolling back and retiring write what
promoting does: a commit and nothing else; pulling writes nothing to an object store."""
S3_PARTS = {
    "pull": {4},
    "pull what was sent in parts": {16},
    "up to the first collection": {0, 1, 2, 3, 5, 6, 7},
    "up to the last collection": set(range(8, 16)),
}
"""The steps whose points each part takes: about as many everywhere, since pulling touches most."""


def check_crashes(crashes, steps):
    assert [n for n, crash in enumerate(crashes) if not crash.killed] == []
    assert steps <= {len(crash.steps) for crash in crashes}, "some step was never cut off"


def test_a_writer_to_a_folder_killed_in_any_step_loses_nothing_it_acknowledged(tmp_path):
    check_crashes(crash_at_points(None, str(tmp_path / "store"), tmp_path), ALL)


def test_a_writer_to_an_object_store_killed_in_any_kind_of_step_loses_nothing_it_acknowledged(busy_bucket, tmp_path):  # noqa: F811  (the fixture)
    check_crashes(crash_at_points(None, busy_bucket, tmp_path, big=True, steps=ONE_OF_A_KIND), ONE_OF_A_KIND)


@pytest.mark.long
def test_a_writer_to_a_folder_killed_at_any_point_loses_nothing_it_acknowledged(tmp_path):
    check_crashes(crash_at_points(LOCAL_POINTS, str(tmp_path / "store"), tmp_path), ALL)


@pytest.mark.long
@pytest.mark.parametrize("part", list(S3_PARTS))
def test_a_writer_to_an_object_store_killed_at_any_point_loses_nothing_it_acknowledged(part, busy_bucket, tmp_path):  # noqa: F811  (the fixture)
    steps = S3_PARTS[part]
    check_crashes(crash_at_points(S3_POINTS, busy_bucket, tmp_path, big=True, steps=steps), steps)


def test_every_step_is_in_one_part():
    assert sorted(step for steps in S3_PARTS.values() for step in steps) == sorted(ALL)
