from pathlib import Path

from llamafarm_ray.training.job import RunFolder
from llamafarm_ray.training.planning import _checkpoint_uri


def test_checkpoints_lie_in_the_run_s_folder_unless_a_place_is_named(tmp_path):
    assert _checkpoint_uri(None, RunFolder(tmp_path / ".out.run"), "f" * 64) == str(tmp_path / ".out.run")


def test_a_relative_place_is_absolute_for_workers_with_other_current_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = _checkpoint_uri("here", RunFolder(Path("/runs/.out.run")), "f" * 64)
    assert found.startswith(f"{tmp_path}/here/out.run-")


def test_two_outputs_and_two_fingerprints_have_places_of_their_own():
    places = {
        _checkpoint_uri("s3://bucket/runs/", RunFolder(Path(folder, ".out.run")), fingerprint * 64)
        for folder in ("/a", "/b")
        for fingerprint in "fg"
    }
    assert len(places) == 4
    assert all(place.startswith("s3://bucket/runs/out.run-") for place in places)
