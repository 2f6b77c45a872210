"""What Ray Tune is told when it asks for a trial, and what is written down when one ends."""

import pytest
from ray.tune.search import Searcher

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import StorageError
from llamafarm_ray.tuning.budget import Budget
from llamafarm_ray.tuning.journal import Journal, State, SweepFacts
from llamafarm_ray.tuning.plan import Planner
from llamafarm_ray.tuning.ray_tune import _Proposals
from llamafarm_ray.tuning.search import make_search
from llamafarm_ray.tuning.space import Space
from llamafarm_ray.tuning.sweep import Sweep
from llamafarm_ray.tuning.watch import Watch

FACTS = SweepFacts("bot", "validation_loss", True, {"search": "grid"})


@pytest.fixture
def watch(tmp_path):
    """Three trials, two of them at once."""
    space = Space.of(parse_config({"tuning": {"parameters": {"fine_tuning.parameters.r": [8, 16, 32]}}}))
    journal = Journal(tmp_path / "journal.jsonl")
    journal.begin(FACTS)
    planner = Planner(journal, space, make_search("grid", space, 7, lower_is_better=True), num_trials=3)
    sweep = Sweep(FACTS, tmp_path, concurrent=2)
    return Watch(sweep, journal, planner, Budget(None), lambda _: None)


def finish(watch, number, loss):
    watch.result(number, {"state": "finished", "metrics": {"validation_loss": loss}})


def test_as_many_trials_begin_as_may_run_and_the_last_word_is_that_there_are_no_more(watch):
    proposals = _Proposals(watch)
    assert [proposals.suggest("any")["trial"] for _ in range(2)] == [0, 1]
    assert proposals.suggest("any") is None, "both places are taken: later"
    finish(watch, 0, 2.0)
    assert proposals.suggest("any")["trial"] == 2
    finish(watch, 1, 1.0)
    finish(watch, 2, 3.0)
    assert proposals.suggest("any") == Searcher.FINISHED
    assert {record.state for record in watch.journal.records.values()} == {State.FINISHED}


def test_a_planner_that_fails_ends_the_sweep_with_its_error(watch, monkeypatch):
    def fail():
        raise StorageError("The disk is full.")

    monkeypatch.setattr(watch.planner, "next", fail)
    assert _Proposals(watch).suggest("any") == Searcher.FINISHED
    assert isinstance(watch.error, StorageError)
    assert watch.over()


def test_a_result_without_the_metric_is_a_failed_trial(watch):
    watch.begin()
    watch.result(0, {"state": "finished", "metrics": {"train_loss": 1.0}})
    record = watch.journal.records[0]
    assert record.state is State.FAILED
    assert "its metrics are: train_loss" in record.reason
