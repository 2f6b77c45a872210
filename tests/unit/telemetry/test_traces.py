"""A run's spans: one trace of the command, its parts, and what the worker does."""

import os

import pytest
from otlp import collecting

from llamafarm_ray.errors import InputError
from llamafarm_ray.telemetry.traces import Spans, step, traced, traceparent
from llamafarm_ray.training.monitoring.run_traces import RunTraces
from llamafarm_ray.training.result import Progress

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector(monkeypatch):
    for name in [name for name in os.environ if name.startswith("OTEL_")] + ["TRACEPARENT"]:
        monkeypatch.delenv(name, raising=False)
    with collecting() as running:
        yield running


def names(spans):
    return {span.name for span in spans}


def test_the_parts_of_a_command_are_in_its_trace_and_a_pipelines(collector, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", PARENT)
    with traced(collector.url, "run", {"llamafarm.model": "bot"}):
        with step("dataset"):
            pass
        with step("train"):
            told = traceparent()
    spans = {span.name: span for span in collector.wait(lambda spans: names(spans) >= {"run", "dataset", "train"})}
    run = spans["run"]
    assert (run.trace, run.parent) == tuple(PARENT.split("-")[1:3])
    assert run.attributes == {"llamafarm.model": "bot"}
    assert run.resource["service.name"] == "llamafarm"
    assert {spans["dataset"].parent, spans["train"].parent} == {run.span}
    assert told == f"00-{run.trace}-{spans['train'].span}-01"


def test_a_part_that_fails_says_by_which_error(collector):
    def fail():
        with traced(collector.url, "run"), step("register"):
            raise InputError("no")

    with pytest.raises(InputError):
        fail()
    spans = collector.wait(lambda spans: names(spans) >= {"run", "register"})
    assert all(span.is_error for span in spans)
    assert {span.attributes["error.type"] for span in spans} == {"invalid_input"}


def progress(number, loss=1.0):
    return Progress(number, 300, 0, loss, 1e-3, 0.5, 100.0, float(number))


def test_the_worker_adds_groups_of_steps_validations_and_checkpoints(collector):
    traces = RunTraces(Spans(collector.url, PARENT), {"model": "bot", "run": "r1"})
    for number in range(1, 251):
        traces.step(progress(number, loss=1 / number))
    traces.validation(0.5, 250)
    traces.checkpoint(250, 0.25)
    traces.step(progress(251))
    traces.close()
    spans = collector.wait(lambda spans: len(spans) >= 6)
    assert {(span.trace, span.parent) for span in spans} == {tuple(PARENT.split("-")[1:3])}
    groups = [span.attributes for span in spans if span.name == "steps"]
    reached = [(one["llamafarm.first_step"], one["llamafarm.last_step"]) for one in groups]
    assert sorted(reached) == [(1, 100), (101, 200), (201, 250), (251, 251)]
    assert {one["llamafarm.run"] for one in groups} == {"r1"}
    (validation,) = [span for span in spans if span.name == "validation"]
    assert (validation.attributes["llamafarm.validation_loss"], validation.attributes["llamafarm.step"]) == (0.5, 250)
    assert [span.attributes["llamafarm.step"] for span in spans if span.name == "checkpoint"] == [250]


def test_without_a_collector_nothing_is_traced():
    with traced(None, "run"), step("train"):
        assert traceparent() == ""
    traces = RunTraces(Spans(None), {"model": "bot", "run": "r1"})
    traces.step(progress(1))
    traces.validation(1.0, 1)
    traces.checkpoint(1, 1.0)
    traces.close()
