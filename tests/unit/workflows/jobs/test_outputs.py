"""Jobs of one working directory write to places of their own, and find them again when the directory has changed."""

import inspect
from pathlib import Path

import pytest
from ray._private.runtime_env import working_dir

from llamafarm_ray.config import parse_config
from llamafarm_ray.workflows.jobs.outputs import _COPIES, own_output

OUTPUT = Path("trained_models", "twin")


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """Go into a job's copy of a working directory, by the digest of its files."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def go(package):
        folder = tmp_path / "session" / "runtime_resources" / _COPIES / f"_ray_pkg_{package}"
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(folder)
        return folder

    return go


def config_of(rate):
    return parse_config({"name": "twin", "fine_tuning": {"training": {"learning_rate": rate}}})


def test_two_jobs_of_one_folder_have_outputs_of_their_own(inside):
    inside("aaaa")
    one, other = (own_output(OUTPUT, config_of(rate)) for rate in (1e-4, 2e-4))
    assert one != other
    assert all(path.is_relative_to(Path.home()) and path.parts[-2:] == OUTPUT.parts for path in (one, other))


def test_a_resubmitted_job_finds_its_output_though_a_file_was_added(inside):
    inside("aaaa")
    first = own_output(OUTPUT, config_of(1e-4))
    inside("bbbb")
    assert own_output(OUTPUT, config_of(1e-4)) == first
    assert own_output(Path("elsewhere"), config_of(1e-4)) != first


def test_other_paths_are_taken_as_they_are(inside, tmp_path, monkeypatch):
    folder = inside("aaaa")
    assert own_output(tmp_path / "out", config_of(1e-4)) == tmp_path / "out"
    assert own_output(folder / OUTPUT, config_of(1e-4)) != folder / OUTPUT
    monkeypatch.chdir(tmp_path)
    assert own_output(OUTPUT, config_of(1e-4)) == OUTPUT


def test_ray_keeps_its_copies_in_a_folder_of_that_name():
    assert f'"{_COPIES}"' in inspect.getsource(working_dir.WorkingDirPlugin)
