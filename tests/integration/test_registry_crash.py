"""A writer killed at any point leaves a registry that holds what it acknowledged; all 200 points are in tests/long."""

from registry_crash import crash_at_points, store  # noqa: F401  (a fixture)
from s3 import bucket, s3_server  # noqa: F401  (fixtures)


def test_a_killed_writer_loses_nothing_it_acknowledged(store, tmp_path):  # noqa: F811  (the fixture)
    crashes = crash_at_points(3 if store.startswith("s3:") else 21, store, tmp_path)
    assert [n for n, crash in enumerate(crashes) if not crash.killed] == []
