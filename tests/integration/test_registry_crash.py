"""A writer killed at any point leaves a registry that holds what it acknowledged; all 200 points are in tests/long."""

import pytest
from registry_crash import Helper, Writing, crash_and_recover, kill_points, make_folders
from s3 import bucket, s3_server  # noqa: F401  (fixtures)

from llamafarm_ray.storage import Location


@pytest.mark.parametrize(("store", "number"), [("local", 16), ("s3", 8)])
def test_a_killed_writer_loses_nothing_it_acknowledged(store, number, tmp_path, request):
    root = str(tmp_path) if store == "local" else request.getfixturevalue("bucket")
    home = Location(root)
    folders = make_folders(tmp_path / "folders")
    helper = Helper()
    try:
        writing = Writing(f"{root}/whole", str(tmp_path / "cache"), str(folders), str(tmp_path / "whole.acks"))
        points = kill_points(helper, writing, number)
        for point in points:
            files = (f"{root}/home-{point}", tmp_path / f"cache-{point}", folders, tmp_path / f"acks-{point}")
            writing = Writing(*map(str, files), point=point)
            crash = crash_and_recover(helper, writing, home.child(f"home-{point}"))
            assert crash.killed, f"point {point} was never reached"
    finally:
        helper.close()
