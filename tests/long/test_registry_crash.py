"""kill -9 of the writing process at 200 points, before and after every write, on a folder and on an object store."""

import pytest
from registry_crash import crash_at_points, store  # noqa: F401  (a fixture)
from s3 import bucket, s3_server  # noqa: F401  (fixtures)

pytestmark = pytest.mark.long


def test_a_writer_killed_at_any_point_loses_nothing_it_acknowledged(store, tmp_path):  # noqa: F811  (the fixture)
    is_remote = store.startswith("s3:")
    crashes = crash_at_points(70 if is_remote else 130, store, tmp_path, big=is_remote)
    assert [n for n, crash in enumerate(crashes) if not crash.killed] == []
    cut_off_after = {len(crash.steps) for crash in crashes}
    assert cut_off_after == set(range(17)), "some step was never cut off"
