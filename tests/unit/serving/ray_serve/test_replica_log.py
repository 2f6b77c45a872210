"""vLLM's logging leaves Serve's log as it was."""

import logging
import logging.config
from logging.handlers import MemoryHandler

import pytest

from llamafarm_ray.serving.ray_serve.replica_log import serve_log_kept


@pytest.fixture
def log(tmp_path):
    """Serve's logger as a replica has it, and its file."""
    file = tmp_path / "replica.log"
    memory = MemoryHandler(1, target=logging.FileHandler(file))
    serve = logging.getLogger("ray.serve")
    before, level = serve.handlers[:], serve.level
    serve.handlers, serve.level = [memory], logging.INFO
    yield file
    serve.handlers, serve.level = before, level


def set_up_logging_anew():
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})


def test_without_care_the_log_ends(log):
    logging.getLogger("ray.serve.llamafarm").info("before")
    set_up_logging_anew()
    logging.getLogger("ray.serve.llamafarm").info("after")
    assert log.read_text() == "before\n"


def test_the_log_goes_on(log):
    logging.getLogger("ray.serve.llamafarm").info("before")
    with serve_log_kept():
        set_up_logging_anew()
    logging.getLogger("ray.serve.llamafarm").info("after")
    assert log.read_text() == "before\nafter\n"
    handler, *_ = logging.getLogger("ray.serve").handlers
    assert handler.target.baseFilename == str(log)
