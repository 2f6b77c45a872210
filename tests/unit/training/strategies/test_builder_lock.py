import multiprocessing
import os
import signal

import pytest

from llamafarm_ray.errors import TrainingError
from llamafarm_ray.training.strategies.build_lock import only_builder


def test_a_lock_that_a_killed_build_left_behind_is_removed(tmp_path):
    stale = tmp_path / "async_io" / "lock"
    stale.parent.mkdir()
    stale.touch()
    with only_builder(tmp_path):
        assert not stale.exists()


def test_a_live_builder_is_waited_for_and_then_named(tmp_path):
    with (
        only_builder(tmp_path),
        pytest.raises(TrainingError, match="has been compiling"),
        only_builder(tmp_path, timeout_s=0.3),
    ):
        pass


def build_and_be_killed(folder):
    with only_builder(folder):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_builder_that_was_killed_does_not_block_the_next(tmp_path):
    builder = multiprocessing.get_context("fork").Process(target=build_and_be_killed, args=(tmp_path,))
    builder.start()
    builder.join()
    assert builder.exitcode == -signal.SIGKILL
    with only_builder(tmp_path, timeout_s=0.3):
        pass
