"""Log records name the run, version and request that they are about; as JSON where that is asked for."""

import asyncio
import io
import json
import logging

import pytest
from ray._common.formatters import JSONFormatter

from llamafarm_ray.telemetry import logs
from llamafarm_ray.telemetry.logs import JsonFormatter, about, set_up_logs


@pytest.fixture
def written(monkeypatch):
    """What is logged as JSON, as objects."""
    stream = io.StringIO()
    monkeypatch.setattr(logs.sys, "stderr", stream)
    loggers = [logging.getLogger(name) for name in ("llamafarm_ray", "ray.serve.llamafarm")]
    factory = logging.getLogRecordFactory()
    kept = [(one, list(one.handlers), one.level, one.propagate) for one in loggers]
    set_up_logs({"LLAMAFARM_LOG_FORMAT": "json"})
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.setLogRecordFactory(factory)
    for one, handlers, level, propagate in kept:
        one.handlers[:], one.propagate = handlers, propagate
        one.setLevel(level)


def test_a_line_has_what_it_is_about(written):
    logger = logging.getLogger("llamafarm_ray.training.trainer")
    with about(run="r1", model="bot"):
        logger.info("step %d\nof many", 3)
        with about(version="bot:1.0.0", request=""):
            logger.warning("late")
    logger.info("after")
    first, second, third = written()
    assert first["message"] == "step 3\nof many"
    assert (first["level"], first["logger"], first["run"], first["model"]) == ("info", logger.name, "r1", "bot")
    assert first["time"].endswith("+00:00")
    assert (second["run"], second["version"]) == ("r1", "bot:1.0.0")
    assert "request" not in second
    assert not set(third) & {"run", "model", "version"}


def test_an_error_has_its_type_and_traceback(written):
    try:
        int("no")
    except ValueError:
        logging.getLogger("llamafarm_ray.x").exception("It failed.")
    (line,) = written()
    assert line["error"]["type"] == "ValueError"
    assert "test_an_error_has_its_type_and_traceback" in line["error"]["traceback"]


def test_requests_at_the_same_time_keep_their_ids(written):
    logger = logging.getLogger("llamafarm_ray.serving")

    async def request(number):
        with about(request=f"q{number}"):
            await asyncio.sleep(0)
            logger.info("asked %d", number)

    async def both():
        await asyncio.gather(*(request(number) for number in range(20)))

    asyncio.run(both())
    assert {(line["message"], line["request"]) for line in written()} == {(f"asked {n}", f"q{n}") for n in range(20)}


def test_ray_serves_json_has_the_ids_too(written):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("ray.serve.llamafarm")
    logger.addHandler(handler)
    with about(request="q1", version="bot:1.0.0"):
        logger.warning("slow")
    logger.removeHandler(handler)
    line = json.loads(JSONFormatter().format(records[0]))
    assert (line["llamafarm_request"], line["llamafarm_version"]) == ("q1", "bot:1.0.0")
    assert [(line["request"], line["version"]) for line in written()] == [("q1", "bot:1.0.0")]


def test_setting_up_twice_writes_once_and_without_the_variable_nothing_changes(written):
    set_up_logs({"LLAMAFARM_LOG_FORMAT": "json"})
    set_up_logs({})
    logging.getLogger("llamafarm_ray.x").info("once")
    assert len(written()) == 1


def test_the_factory_of_another_library_stays_in_force():
    before = logging.getLogRecordFactory()

    def of_another(*args, **kwargs):
        record = before(*args, **kwargs)
        record.theirs = "kept"
        return record

    logging.setLogRecordFactory(of_another)
    try:
        set_up_logs({})
        with about(run="r1"):
            record = logging.getLogger("llamafarm_ray.x").makeRecord("llamafarm_ray.x", 20, "f", 1, "hello", (), None)
    finally:
        logging.setLogRecordFactory(before)
    assert (record.theirs, record.llamafarm_run) == ("kept", "r1")


def test_records_of_others_are_left_alone(written):
    with about(run="r1"):
        record = logging.getLogger("elsewhere").makeRecord("elsewhere", 20, "f", 1, "hello", (), None)
    assert "run" not in json.loads(JsonFormatter().format(record))
