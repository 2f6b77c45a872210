"""Which trial is next, and what a killed sweep remembers."""

import math

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import ConfigError, ConflictError
from llamafarm_ray.tuning.journal import Journal, State, SweepFacts
from llamafarm_ray.tuning.plan import Planner, Suggestion
from llamafarm_ray.tuning.search import make_search
from llamafarm_ray.tuning.space import Space

RATE = "fine_tuning.training.learning_rate"
RANK = "fine_tuning.parameters.r"
METHOD = "fine_tuning.method"
FACTS = SweepFacts("bot", "validation_loss", True, {"search": "random"})
WIDE = {RATE: {"log_uniform": [1e-5, 1e-1]}, RANK: [8, 16]}


def planner(folder, parameters, *, search="random", num_trials=None, **options):
    space = Space.of(parse_config({"tuning": {"parameters": parameters}}))
    journal = Journal(folder / "journal.jsonl")
    journal.begin(FACTS)
    found = make_search(search, space, 7, lower_is_better=True)
    return Planner(journal, space, found, num_trials=num_trials, **options), journal


def run_all(plan, journal, loss, *, most=1000):
    """Run trials one after the other; ``loss`` says how each does."""
    done = []
    while len(done) < most and (task := plan.next()) is not None:
        value = loss(task.record.values)
        journal.ended(task.record.number, State.FINISHED, seconds=1, value=value)
        plan.tell(task.record)
        done.append(task.record)
    return done


def test_the_same_seed_tries_the_same_and_no_trial_comes_twice(tmp_path):
    first = run_all(*planner(tmp_path / "a", WIDE, num_trials=12), lambda _: 1.0)
    second = run_all(*planner(tmp_path / "b", WIDE, num_trials=12), lambda _: 1.0)
    assert [record.values for record in first] == [record.values for record in second]
    assert len({tuple(record.values.items()) for record in first}) == 12


@pytest.mark.parametrize("search", ["random", "grid", "optuna"])
def test_a_small_space_is_tried_out_and_then_ends(tmp_path, search):
    plan, journal = planner(tmp_path, {RANK: [8, 16, 32], METHOD: ["lora", "full"]}, search=search)
    done = run_all(plan, journal, lambda values: values.get(RANK, 1))
    assert len(done) == 4, "with full the rank means nothing"
    assert plan.ended_because.startswith("every combination")


def test_optuna_finds_better_values_than_chance(tmp_path):
    def loss(values):
        return (math.log10(values[RATE]) + 3) ** 2 + (values[RANK] == 8)

    best = {}
    for search in ("random", "optuna"):
        plan, journal = planner(tmp_path / search, WIDE, search=search, num_trials=40)
        best[search] = sorted(record.value for record in run_all(plan, journal, loss))
    assert sum(best["optuna"][:20]) < 0.5 * sum(best["random"][:20])


def test_a_killed_sweep_goes_on_with_its_unfinished_trials_and_then_with_new_ones(tmp_path):
    whole = run_all(*planner(tmp_path / "whole", WIDE, num_trials=6), lambda _: 1.0)

    plan, journal = planner(tmp_path / "cut", WIDE, num_trials=6)
    run_all(plan, journal, lambda _: 1.0, most=2)
    running = [plan.next().record.number for _ in range(2)]
    with (tmp_path / "cut" / "journal.jsonl").open("a") as file:
        file.write('{"at": "2026-11-22T0')  # killed while writing

    plan, journal = planner(tmp_path / "cut", WIDE, num_trials=6)
    assert [record.state for record in journal.records.values()] == ["finished"] * 2 + ["running"] * 2
    done = run_all(plan, journal, lambda _: 1.0)
    assert [record.number for record in done] == [*running, 4, 5]
    assert [record.values for record in journal.records.values()] == [record.values for record in whole]
    assert Journal(tmp_path / "cut" / "journal.jsonl").records == journal.records


def test_optuna_remembers_what_earlier_sessions_saw(tmp_path):
    parameters = {RATE: {"log_uniform": [1e-5, 1e-1]}, METHOD: ["lora", "full"], RANK: {"log_int": [1, 64]}}

    def loss(values):
        return abs(math.log10(values[RATE]) + 3) + values.get(RANK, 1) / 100

    run_all(*planner(tmp_path, parameters, search="optuna", num_trials=25), loss)
    plan, journal = planner(tmp_path, parameters, search="optuna", num_trials=35)
    journal.ended(0, State.STOPPED, seconds=1)  # and one that never finished
    later = run_all(plan, journal, loss)
    assert len(later) == 10
    assert sum(abs(math.log10(record.values[RATE]) + 3) < 1 for record in later) >= 7


def test_another_sweep_in_the_folder_is_refused_with_what_differs(tmp_path):
    Journal(tmp_path / "journal.jsonl").begin(FACTS)
    other = SweepFacts("bot", "train_loss", True, {"search": "grid"})
    with pytest.raises(ConflictError, match="metric, search"):
        Journal(tmp_path / "journal.jsonl").begin(other)


def test_proposals_that_break_a_rule_are_invalid_trials_with_a_reason(tmp_path):
    checkpointing = "fine_tuning.training.gradient_checkpointing"
    plan, journal = planner(tmp_path, {METHOD: ["lora", "prefix_tuning"], checkpointing: [True, False]}, search="grid")
    done = run_all(plan, journal, lambda _: 1.0)
    invalid = [record for record in journal.records.values() if record.state is State.INVALID]
    assert (len(done), len(invalid)) == (3, 1)
    assert "gradient_checkpointing: can't be true" in invalid[0].reason


def test_a_space_without_any_valid_configuration_is_an_error(tmp_path):
    checkpointing = "fine_tuning.training.gradient_checkpointing"
    parameters = {METHOD: ["prefix_tuning"], checkpointing: [True], RATE: {"log_uniform": [1e-5, 1e-3]}}
    plan, _ = planner(tmp_path, parameters)
    with pytest.raises(ConfigError, match="each breaks a rule"):
        plan.next()


def test_what_is_worth_trying_first_is_tried_first_and_once(tmp_path):
    first = [Suggestion({RATE: 2e-4, RANK: 8}, "the usual settings"), Suggestion({RATE: 2e-4, RANK: 8}, "again")]
    plan, journal = planner(tmp_path, WIDE, num_trials=3, first=first)
    done = run_all(plan, journal, lambda _: 1.0)
    assert (done[0].values, done[0].why) == ({RATE: 2e-4, RANK: 8}, "the usual settings")
    assert [record.why for record in done[1:]] == ["", ""]


def test_a_sweep_of_which_nothing_succeeds_ends_after_three_trials(tmp_path):
    plan, journal = planner(tmp_path, WIDE, num_trials=50)
    while (task := plan.next()) is not None:
        journal.ended(task.record.number, State.FAILED, seconds=1, reason="disk full")
    assert len(journal.records) == 3
    assert plan.ended_because == "the first 3 trials failed"


def test_without_time_no_trial_begins(tmp_path):
    plan, _ = planner(tmp_path, WIDE, has_time=lambda: False)
    assert plan.next() is None
    assert plan.ended_because == "the budget is used up"
