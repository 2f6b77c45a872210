"""`llamafarm models tune`: what is wrong is said before Ray starts."""

import json

import pytest

from llamafarm_ray.cli.training.tune import show_sweep, sweep_lines, whole_keys
from llamafarm_ray.tuning.journal import Record, State

RATE = "fine_tuning.training.learning_rate"


def test_a_dry_run_shows_the_sweep_and_overrides_of_several_keys(llamafarm):
    shown = llamafarm.text(
        "models",
        "tune",
        "--num-trials",
        "5",
        "--budget",
        "30m",
        "--scheduler",
        "none",
        "--set",
        f"tuning.parameters.{RATE}={{log_uniform: [1e-5, 1e-3]}}",
        "--set",
        "tuning.parameters.fine_tuning.parameters.r=[8, 16]",
        "--dry-run",
    )
    tuning = json.loads(shown)["tuning"]
    assert tuning["parameters"] == {
        RATE: {"log_uniform": [1e-5, 1e-3]},
        "fine_tuning.parameters.r": {"choice": [8, 16]},
    }
    assert (tuning["num_trials"], tuning["budget"], tuning["scheduler"]) == (5, "30m", "none")


def test_other_overrides_stay_as_they_are():
    assert whole_keys(["tuning.num_trials=3", "tuning.parameters={a: [1]}"]) == [
        "tuning.num_trials=3",
        "tuning.parameters={a: [1]}",
    ]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--search", "annealing"], "must be one of random, grid, optuna"),
        (["--scheduler", "hyperband"], "must be one of none, asha, pbt"),
        (["--scheduler", "pbt"], "is pbt, which needs tuning.parameters"),
        (
            ["--scheduler", "pbt", "--set", "tuning.parameters={lora_r: [8, 16]}"],
            "fine_tuning.parameters.r: can't change",
        ),
        (["--budget", "soon"], "length of time such as 30m"),
        (["--num-trials", "0"], "tuning.num_trials"),
        (["--set", "tuning.parameters.fine_tuning.parameters.rang=[1]"], "rang: is no known key"),
        (["--search", "grid"], "so tuning.parameters has to list values"),
    ],
)
def test_mistakes_are_found_before_ray_starts(llamafarm, options, problem):
    error = llamafarm.error("models", "tune", "--base-model", "base", *options)
    assert problem in error["message"]


def test_a_missing_dataset_is_found_before_ray_starts(llamafarm):
    error = llamafarm.error("models", "tune", "--base-model", "base", "--dataset", "nowhere.jsonl")
    assert "There is no dataset" in error["message"]


def test_running_trials_are_shown_below_the_best():
    records = {
        0: Record(0, {RATE: 1e-4}, State.FINISHED, value=1.5),
        1: Record(1, {RATE: 2e-4}, State.FINISHED, value=1.25),
        2: Record(2, {RATE: 3e-4}, State.RUNNING, points={1: 2.0}),
    }
    lines = sweep_lines(records, lower_is_better=True)
    assert lines == ["best: trial 1  1.25  learning_rate=0.0002", "runs: trial 2  2  learning_rate=0.0003"]
    assert sweep_lines(records, lower_is_better=False)[0].startswith("best: trial 0")
    assert sweep_lines({}, lower_is_better=True) == ["the first trials start"]


def test_the_table_has_the_best_first_and_says_what_failed(capsys, tmp_path):
    from llamafarm_ray.tuning.sweep import SweepResult
    from llamafarm_ray.workflows.tuning.tune import TunedModel

    records = [
        Record(0, {RATE: 1e-4}, State.FINISHED, value=1.5, seconds=3),
        Record(1, {RATE: 2e-4}, State.FINISHED, value=1.25, seconds=4),
        Record(2, {RATE: 3e-4}, State.FAILED, reason="out of memory"),
    ]
    result = SweepResult(records, records[1], "all 3 trials are done", 65)
    show_sweep(TunedModel(tmp_path, tmp_path, None, result, ["Trial 1 is the best."]), "validation_loss")
    shown = capsys.readouterr().out
    assert shown.index("1 *") < shown.index("0.0001")
    assert "Trial 2 failed: out of memory" in shown
    assert "Ended after 1 min 05 s: all 3 trials are done." in shown
