"""A sweep on a real Ray: trials train, worse ones are stopped, and a driver that is killed loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from tiny_model import make_rows, make_tiny_model

from llamafarm_ray.config import load_config, parse_config
from llamafarm_ray.tuning.journal import Journal
from llamafarm_ray.tuning.population import ancestors

RATES = [2e-2, 1e-2, 1e-6]
"""In this order: the last one learns nothing."""


def write_rows(path, rows):
    path.write_text("".join(json.dumps({"messages": row["messages"]}) + "\n" for row in rows))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning")
    make_tiny_model(folder / "base")
    write_rows(folder / "qa.jsonl", make_rows(16))
    write_rows(folder / "qa.validation.jsonl", make_rows(4))
    training = {"epochs": 8.0, "batch_size": 4, "log_every_s": 0.0, "warmup_steps": 0, "lr_scheduler": "constant"}
    config = {
        "name": "tuned",
        "base_model": "base",
        "home": str(folder / "home"),
        "dataset": {"path": "qa.jsonl", "format": "chatml"},
        "fine_tuning": {"method": "lora", "training": training},
        "tuning": {
            "parameters": {"fine_tuning.training.learning_rate": {"grid": RATES}},
            "search": "grid",
            "max_concurrent": 2,
            "early_stopping": {"first_after": 0.25, "reduction_factor": 2},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def killed(ray_cluster, place):
    """The folder of a sweep whose driver was killed after a trial had ended, while another one had a checkpoint."""
    sweep = place / "sweep"
    command = [sys.executable, "-c", "from llamafarm_ray.cli.main import main; main()"]
    options = ["--config", "config.yaml", "--output", str(sweep), "--address", ray_cluster.address]
    with (place / "killed.log").open("w") as log:
        driver = subprocess.Popen([*command, "models", "tune", *options], cwd=place, stdout=log, stderr=log)
    until = time.monotonic() + 240
    while not is_under_way(sweep):
        assert driver.poll() is None, (place / "killed.log").read_text()
        assert time.monotonic() < until, (place / "killed.log").read_text()
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    return sweep


def is_under_way(sweep):
    journal = Journal(sweep / "journal.jsonl")
    running = [record for record in journal.records.values() if record.state == "running"]
    checkpoints = ".model.run/checkpoints/*/checkpoint.json"
    has_checkpoint = any(any((sweep / "trials" / one.name).glob(checkpoints)) for one in running)
    return has_checkpoint and len(running) < len(journal.records)


@pytest.mark.long
def test_a_killed_sweep_goes_on_stops_what_is_worse_and_registers_the_best(killed, place, monkeypatch):
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.tuning.tune import TuningRun, register_tuned

    monkeypatch.chdir(place)
    before = Journal(killed / "journal.jsonl")
    finished = {number: record for number, record in before.records.items() if record.state != "running"}
    notes = []
    config = load_config("config.yaml")
    registry = open_registry(config.home)
    tuned = TuningRun.prepare(config, registry, folder=killed).run(on_note=notes.append)

    assert "goes on" in notes[0]
    records = tuned.result.records
    assert [record.values["fine_tuning.training.learning_rate"] for record in records] == RATES
    assert all(records[number] == record for number, record in finished.items()), "what had ended was not run again"
    assert {record.state for record in records} == {"finished", "stopped"}
    assert tuned.result.best.number in {0, 1}
    assert records[2].state == "stopped", "ASHA has no use for it"
    assert tuned.result.ended_because == "every combination was tried"
    histories = [killed / "trials" / record.name / "model" / "history.jsonl" for record in records]
    resumed = [path for path in histories if path.is_file() and '"resume"' in path.read_text()]
    ended_early = [record for record in before.records.values() if record.state == "running"]
    assert resumed or all(records[one.number].state == "stopped" for one in ended_early), "from its checkpoint"

    assert {"best.yaml", "report.html", "trials.jsonl", "journal.jsonl"} <= {path.name for path in killed.iterdir()}
    assert not list(killed.glob("ray*"))
    with_weights = list(killed.glob("trials/*/model/*.safetensors"))
    assert len(with_weights) == 1, "of the best trial only"
    best = load_config(killed / "best.yaml")
    assert best.fine_tuning.training.learning_rate == tuned.result.best.values["fine_tuning.training.learning_rate"]

    assert "auto" not in (best.fine_tuning.training.epochs, best.fine_tuning.training.batch_size)

    version = register_tuned(registry, config, tuned)
    facts = version.registered
    assert version.ref == "tuned:1.0.0"
    assert (facts.dataset, facts.run) == ("qa", f"sweep sweep, trial {tuned.result.best.number}")
    assert facts.metrics["validation_loss"] == tuned.result.best.value
    lineage = json.loads((place / "trained_models" / "tuned" / "training.json").read_text())["lineage"]
    assert lineage["sweep"]["folder"] == str(killed)

    again = TuningRun.prepare(config, registry, folder=killed).run()
    assert [record.value for record in again.result.records] == [record.value for record in records]


@pytest.mark.long
def test_in_a_population_the_worst_go_on_from_the_best(ray_cluster, place, monkeypatch):
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.tuning.tune import TuningRun

    monkeypatch.chdir(place)
    rates = {"fine_tuning.training.learning_rate": {"choice": [2e-2, 1e-2, 1e-6, 1e-7]}}
    config = load_config("config.yaml", overrides=["name=population"])
    tuning = parse_config(
        {
            "tuning": {
                "parameters": rates,
                "scheduler": "pbt",
                "search": "random",
                "num_trials": 4,
                "max_concurrent": 2,
                "early_stopping": {"first_after": 0.25},
                "pbt": {"quantile": 0.5, "resample_probability": 0.0},
            }
        }
    ).tuning
    config = config.model_copy(update={"tuning": tuning})
    folder = place / "population"
    tuned = TuningRun.prepare(config, open_registry(config.home), folder=folder).run()
    records = tuned.result.records
    children = [record for record in records if record.parent is not None]
    assert children, [record.to_dict() for record in records]
    for child in children:
        history = folder / "trials" / child.name / "model" / "history.jsonl"
        if history.is_file():
            first = next(json.loads(line) for line in history.read_text().splitlines() if '"event": "step"' in line)
            assert first["step"] == child.begins_at * 8 + 1, "it went on from its parent's weights"
    rate = "fine_tuning.training.learning_rate"
    assert sum(record.state == "finished" for record in records) == 4
    best = tuned.result.best
    line = [best, *ancestors(best, {record.number: record for record in records})]
    assert {record.values[rate] for record in line} & {2e-2, 1e-2}, "its weights learnt, its own rate may be low"
    assert best.value == min(record.value for record in records if record.value is not None)
    assert not list(folder.glob("trials/*/kept"))
    page = (folder / "report.html").read_text()
    assert f"from the weights of {records[children[0].parent].name}" in page
