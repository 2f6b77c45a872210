"""Nodes that share no folder: the base model is fetched, and the output passes through the checkpoints' storage."""

import uuid
from pathlib import Path

import pytest

from llamafarm_ray.errors import StorageError
from llamafarm_ray.storage import Location
from llamafarm_ray.training.handover import collect_output, hand_over_output, on_this_node
from llamafarm_ray.training.plan.job import RunFolder, TrainingJob


def job(folder, checkpoints, **more):
    """A job of which the paths alone count."""
    values = dict.fromkeys(TrainingJob.__dataclass_fields__) | {"folder": RunFolder(folder), "checkpoints": checkpoints}
    return TrainingJob(**values | more)


@pytest.fixture
def bucket():
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def driver(tmp_path, bucket):
    """The job as the driver sees it: its lock is there."""
    made = job(tmp_path / "head" / ".x.run", bucket)
    made.folder.path.mkdir(parents=True)
    made.folder.lock.touch()
    return made


def worker(tmp_path, bucket):
    made = job(tmp_path / "node" / ".x.run", bucket)
    (made.folder.output / "tensorboard").mkdir(parents=True)
    (made.folder.output / "adapter_model.safetensors").write_bytes(b"weights")
    (made.folder.output / "tensorboard" / "events").write_bytes(b"events")
    return made


def test_an_output_comes_to_the_driver_and_nothing_stays_behind(tmp_path, bucket, driver):
    Location(bucket).write("output/old.txt", b"of a driver that was killed before it collected")
    there = worker(tmp_path, bucket)
    hand_over_output(there)
    collect_output(driver)
    found = sorted(path.relative_to(driver.folder.output).as_posix() for path in driver.folder.output.rglob("*.*"))
    assert found == ["adapter_model.safetensors"]
    assert (driver.folder.output / "tensorboard" / "events").read_bytes() == b"events"
    assert not there.folder.path.exists()
    assert not list(Location(bucket).walk())


def test_a_worker_that_sees_the_drivers_folder_uploads_nothing(driver, bucket):
    driver.folder.output.mkdir()
    (driver.folder.output / "adapter_model.safetensors").write_bytes(b"weights")
    hand_over_output(driver)
    assert not list(Location(bucket).walk())
    collect_output(driver)
    assert (driver.folder.output / "adapter_model.safetensors").read_bytes() == b"weights"


def test_a_node_whose_output_would_be_lost_is_refused_before_it_trains(tmp_path):
    folder = tmp_path / "node" / ".x.run"
    with pytest.raises(StorageError, match="does not see the run's folder") as caught:
        on_this_node(job(folder, str(folder), base_model=tmp_path))
    assert "LLAMAFARM_HOME" in caught.value.hint


def test_the_base_model_is_fetched_where_it_is_not(tmp_path, bucket):
    def fetch():
        return Path("/fetched")

    here = on_this_node(job(tmp_path / ".x.run", bucket, base_model=tmp_path, fetch_base=fetch))
    assert here.base_model == tmp_path
    there = on_this_node(job(tmp_path / ".x.run", bucket, base_model=tmp_path / "missing", fetch_base=fetch))
    assert there.base_model == Path("/fetched")


def test_a_finished_output_on_the_drivers_node_needs_no_storage_and_is_not_replaced(driver, bucket):
    Location(bucket).write("output/adapter_model.safetensors", b"of an attempt that was lost")
    driver.folder.output.mkdir()
    (driver.folder.output / "adapter_model.safetensors").write_bytes(b"weights")
    collect_output(driver)
    assert (driver.folder.output / "adapter_model.safetensors").read_bytes() == b"weights"


def test_a_run_in_a_folder_keeps_it_though_its_lock_was_removed(tmp_path):
    here = worker(tmp_path, str(tmp_path / "node" / ".x.run"))
    hand_over_output(here)
    assert (here.folder.output / "adapter_model.safetensors").read_bytes() == b"weights"
