"""A run's metrics: each step counts once, also after a restart, and a run that stands still shows it."""

import threading

import pytest
from counting_meters import CountingMeters
from patience import patience

from llamafarm_ray.config import parse_config
from llamafarm_ray.training.monitoring import run_meters
from llamafarm_ray.training.monitoring.observer_settings import ObserverSettings
from llamafarm_ray.training.monitoring.observers import Observers
from llamafarm_ray.training.monitoring.run_meters import Devices, RunMeters
from llamafarm_ray.training.result import Progress

LABELS = {"model": "bot", "run": "r1"}


def progress(step, seconds, loss=1.0):
    return Progress(step, 10, 0, loss, 1e-3, 0.5, 100.0, seconds, memory_bytes=7)


def meters_of(sink, **changes):
    return RunMeters(sink, LABELS, Devices("l4", 2), total_steps=10, **changes)


def value(sink, name):
    return sink.gauges[f"llamafarm_training_{name}", "bot", "r1"]


def test_steps_make_tokens_and_device_seconds_of_all_workers():
    sink = CountingMeters()
    meters = meters_of(sink)
    meters.step(progress(1, 2.0))
    meters.step(progress(2, 5.0, loss=0.5))
    assert sink.counters["llamafarm_training_device_seconds_total", "l4", "bot", "r1"] == 10
    assert sink.counters["llamafarm_training_tokens_total", "bot", "r1"] == 500
    shown = {"step": 2, "total_steps": 10, "loss": 0.5, "learning_rate": 1e-3, "memory_bytes": 7}
    assert {name: value(sink, name) for name in shown} == shown


def test_an_attempt_that_goes_on_counts_its_own_seconds_only():
    sink = CountingMeters()
    meters = meters_of(sink, steps_done=4, seconds_done=40.0)
    assert value(sink, "step") == 4
    meters.step(progress(5, 43.0))
    assert sink.counters["llamafarm_training_device_seconds_total", "l4", "bot", "r1"] == 6


def test_a_run_without_progress_is_idle_until_it_gets_on(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(run_meters.time, "monotonic", lambda: now[0])
    sink = CountingMeters()
    meters = meters_of(sink)
    now[0] += 1000
    meters.refresh()
    assert value(sink, "idle_seconds") == 1000
    meters.moved()
    meters.refresh()
    assert value(sink, "idle_seconds") == 0


def test_what_observers_see_is_told(monkeypatch, tmp_path):
    sink = CountingMeters()
    monkeypatch.setattr(run_meters, "RayMeters", lambda _: sink)
    monkeypatch.setattr(run_meters.ray, "is_initialized", lambda: True)
    config = parse_config({"name": "bot", "monitoring": {"tensorboard": False}})
    settings = ObserverSettings.of(config, run_id="run")
    observers = Observers.open(settings, folder=tmp_path, total_steps=10)
    observers.step(progress(1, 1.0))
    observers.step(progress(2, 2.0, loss=float("nan")))
    observers.validation(0.25, 2)
    observers.checkpoint(2, 1.5)
    observers.finish()
    ((_, *labels),) = (key for key in sink.observed if key[0] == "llamafarm_training_checkpoint_seconds")
    assert labels[0] == "bot"
    assert labels[1].startswith("run-"), "the id in reports and trackers"
    assert sink.gauges["llamafarm_training_validation_loss", *labels] == 0.25
    assert sink.counters["llamafarm_training_alerts_total", "nan", *labels] == 1
    assert sink.gauges["llamafarm_training_step", *labels] == 2


@pytest.fixture
def said(monkeypatch):
    """A list of the values that gauges are set to, and an event for the third."""
    values, third = [], threading.Event()

    class Gauge:
        def __init__(self, name, **_):
            self.name = name

        def set(self, value, tags):  # noqa: ARG002
            values.append((self.name, value))
            if len([one for one in values if one[0] == "llamafarm_training_step"]) >= 3:
                third.set()

    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    monkeypatch.setattr("llamafarm_ray.telemetry.meters._AGAIN_S", 0.01)
    return values, third


def test_gauges_are_said_again_until_the_run_ends(said, monkeypatch):
    monkeypatch.setattr(run_meters.ray, "is_initialized", lambda: True)
    values, third = said
    meters = run_meters.open_run_meters("bot", "r1", Devices(), total_steps=10, steps_done=0, seconds_done=0.0)
    assert third.wait(patience(20))
    threads = [one for one in threading.enumerate() if one.name == "llamafarm-gauges"]
    meters.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert ("llamafarm_training_total_steps", 10.0) in values
    assert any(name == "llamafarm_training_idle_seconds" for name, _ in values)


def test_without_ray_nothing_is_told():
    meters = run_meters.open_run_meters("bot", "r1", Devices(), total_steps=1, steps_done=0, seconds_done=0.0)
    meters.step(progress(1, 1.0))
    meters.validation(1.0)
    meters.checkpoint(1.0)
    meters.alert("stall")
    meters.close()
