"""Numbers arrive in real TensorBoard files, W&B run folders and MLflow stores, and go on there after a restart."""

import importlib.util
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from patience import patience

from llamafarm_ray.clusters.ports import free_port
from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import UserError
from llamafarm_ray.training.monitoring.background import Background
from llamafarm_ray.training.monitoring.tracking import Ending, Record, RunInfo, Trackers, flat, record_of
from llamafarm_ray.training.result import Progress

CONFIG = {"name": "bot", "fine_tuning": {"parameters": {"r": 16}}, "long": "x" * 9000}
FACTS = {"dataset_digest": "sha256:abc"}
KEYS = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI")


@pytest.fixture(autouse=True)
def no_accounts(monkeypatch, tmp_path):
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def progress(step, loss=1.0, **changes):
    return Progress(step, 10, 0, loss, 1e-3, 0.5, 100.0, float(step), **changes)


def choose(**monitoring):
    return Trackers.choose(parse_config({"monitoring": monitoring}).monitoring, experiment="bot")


def track(trackers, folder, steps, *, steps_done=0, ending=None, run_id="run-1"):
    """One attempt at a run, with real trackers."""
    info = RunInfo("bot", run_id, folder, steps_done, CONFIG, FACTS)
    for opener in trackers.openers(info).values():
        tracker = opener()
        tracker.log([record_of(progress(step, loss=1 / step)) for step in steps])
        tracker.log([Record(steps[-1], {"validation/loss": 0.25})])
        tracker.close(ending or Ending("finished", {"num_tokens": 42}))


def test_a_record_holds_what_is_known_and_finite():
    known = record_of(progress(3, memory_bytes=5, mfu=0.25, metrics={"accuracy": 0.5})).values
    assert known["train/memory_bytes"] == 5
    assert known["train/mfu"] == 0.25
    assert known["train/accuracy"] == 0.5
    assert sorted(record_of(progress(3, loss=float("nan"))).values) == [
        "train/grad_norm", "train/learning_rate", "train/tokens_per_s",
    ]  # fmt: skip


def test_a_configuration_is_flat_for_trackers_that_want_it_so():
    assert flat({"a": {"b": 1, "c": {}}, "d": None}) == {"a.b": "1", "a.c": "{}", "d": ""}


def tensorboard_scalars(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_holds_each_step_once_also_after_a_restart(tmp_path):
    trackers = choose()
    track(trackers, tmp_path, range(1, 7), ending=Ending("interrupted"))
    track(trackers, tmp_path, range(5, 9), steps_done=4)
    assert [step for step, _ in tensorboard_scalars(tmp_path, "train/loss")] == list(range(1, 9))
    assert tensorboard_scalars(tmp_path, "validation/loss") == [(8, 0.25)]
    assert choose(tensorboard=False).openers(RunInfo("a", "b", tmp_path, 0, {}, {})) == {}


def wandb_records(folder):
    """What an offline run's file holds: W&B's records in LevelDB's log format (32 KiB blocks)."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            room = 32768 - at % 32768
            if room < 7:
                at += room
                continue
            length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
            if kind == 0:
                break
            whole = whole + data[at + 7 : at + 7 + length] if kind in {3, 4} else data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in {1, 4}:
                record = wandb_internal_pb2.Record()
                record.ParseFromString(whole)
                found.append(record)
    return found


def wandb_history(folder):
    rows = []
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append(items)
    return rows


def test_wandb_offline_leaves_a_run_that_a_second_attempt_goes_on_with(tmp_path):
    trackers = choose(tensorboard=False, wandb_project="farm", wandb_mode="offline")
    track(trackers, tmp_path, range(1, 4), ending=Ending("interrupted"))
    time.sleep(1.1)  # W&B names folders by the second
    track(trackers, tmp_path, range(3, 6), steps_done=2)
    rows = wandb_history(tmp_path)
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 3, 4, 5]
    assert rows[0]["train/loss"] == 1.0
    assert {"step": 5, "validation/loss": 0.25}.items() <= rows[-1].items()
    runs = [record.run for record in wandb_records(tmp_path) if record.WhichOneof("record_type") == "run"]
    assert {(run.run_id, run.project, run.display_name) for run in runs} == {("run-1", "farm", "bot")}
    settings = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert settings["fine_tuning"] == {"parameters": {"r": 16}}
    assert settings["facts"] == FACTS
    codes = [r.exit.exit_code for r in wandb_records(tmp_path) if r.WhichOneof("record_type") == "exit"]
    assert codes == [255, 0]


def mlflow_run(uri, run_id="run-1"):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("bot")
    found = client.search_runs([experiment.experiment_id], f"tags.`llamafarm.run_id` = '{run_id}'")
    assert len(found) == 1, "every attempt is the same run"
    return client, found[0]


def check_mlflow(uri, tmp_path):
    trackers = choose(tensorboard=False, mlflow_uri=uri)
    track(trackers, tmp_path, range(1, 4), ending=Ending("interrupted"))
    assert mlflow_run(uri)[1].info.status == "RUNNING"
    track(trackers, tmp_path, range(3, 6), steps_done=2)
    client, run = mlflow_run(uri)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "bot"
    assert sorted({m.step for m in client.get_metric_history(run.info.run_id, "train/loss")}) == [1, 2, 3, 4, 5]
    assert run.data.metrics["validation/loss"] == 0.25
    assert run.data.params["fine_tuning.parameters.r"] == "16"
    assert len(run.data.params["long"]) == 6000
    assert run.data.tags["llamafarm.dataset_digest"] == "sha256:abc"
    assert run.data.tags["llamafarm.num_tokens"] == "42"
    track(trackers, tmp_path, [1], run_id="run-2", ending=Ending("failed"))
    assert mlflow_run(uri, "run-2")[1].info.status == "FAILED"


def test_mlflow_writes_to_a_database(tmp_path):
    check_mlflow(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)


@pytest.fixture
def mlflow_server(tmp_path):
    """MLflow's own server on loopback, as a process group of its own."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--workers", "1"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with (tmp_path / "server.log").open("w") as log:
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + patience(45)
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/health", timeout=2).is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield url, server
    finally:
        end(server)


def end(server):
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.long  # a database, above, and a W&B server that is missing are the short tier's
def test_mlflow_writes_to_a_server_and_one_that_dies_is_left_out(mlflow_server, tmp_path):
    url, server = mlflow_server
    check_mlflow(url, tmp_path)

    info = RunInfo("bot", "run-3", tmp_path, 0, CONFIG, FACTS)
    [opener] = choose(tensorboard=False, mlflow_uri=url).openers(info).values()
    said, is_open = [], threading.Event()

    def start():
        tracker = opener()
        is_open.set()
        return tracker.log

    background = Background("MLflow", start, timeout_s=20, give_up=said.append)
    assert is_open.wait(patience(30))
    end(server)
    started = time.monotonic()
    for step in range(1, 200):
        background.put(record_of(progress(step)))
    assert time.monotonic() - started < patience(1), "no step waits"
    background.close()
    background.join()
    assert time.monotonic() - started < patience(25)
    assert len(said) == 1
    assert said[0].startswith("MLflow ")
    assert said[0].endswith("the run goes on without it.")


@pytest.mark.parametrize(("key", "package"), [("wandb_project", "wandb"), ("mlflow_uri", "mlflow")])
def test_a_missing_package_is_named_with_what_installs_it(key, package, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(UserError, match=f"monitoring.{key} is set, but .* is not installed") as raised:
        choose(**{key: "x"})
    assert f"pip install 'llamafarm_ray[{package}]'" in raised.value.hint


def test_wandb_is_online_only_with_a_key(monkeypatch, tmp_path):
    offline = choose(wandb_project="p")
    assert offline.wandb_mode == "offline"
    assert "no WANDB_API_KEY" in offline.notes[0]
    with pytest.raises(UserError, match="no key"):
        choose(wandb_project="p", wandb_mode="online")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "a" * 40)
    assert choose(wandb_project="p").wandb_mode == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert choose(wandb_project="p").wandb_mode == "offline"
    assert choose(wandb_project="p", wandb_mode="online").wandb_mode == "online", "the configuration goes first"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose(wandb_project="p").wandb_mode is None
    assert choose().wandb_mode is None


def test_keys_travel_to_the_worker_and_are_never_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "SECRET")
    trackers = pickle.loads(pickle.dumps(choose(wandb_project="p")))  # noqa: S301
    assert "SECRET" not in repr(trackers)
    monkeypatch.delenv("WANDB_API_KEY")
    trackers.openers(RunInfo("a", "b", tmp_path, 0, {}, {}))
    assert os.environ.pop("WANDB_API_KEY") == "SECRET"


def test_wandb_without_its_server_is_given_up_and_the_process_ends(tmp_path):
    code = f"""
import time
from pathlib import Path
from llamafarm_ray.training.monitoring.background import Background
from llamafarm_ray.training.monitoring.tracking import RunInfo
from llamafarm_ray.training.monitoring.tracking import wandb
wandb._INIT_TIMEOUT_S = 5.0
info = RunInfo("bot", "run-1", Path({str(tmp_path)!r}), 0, {{}}, {{}})
line = Background("W&B", lambda: wandb.WandbTracker(info, project="p", entity=None, mode="online").log,
                  timeout_s=3, give_up=print)
line.put(1)
line.close()
line.join()
"""
    environment = {**os.environ, "WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patience(45), check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("W&B did not finish within 3 s; the run goes on without it."), ended.stdout


def test_something_that_hangs_is_given_up_while_steps_go_on():
    said, hangs, release = [], threading.Event(), threading.Event()

    def hang(_):
        hangs.set()
        release.wait()

    background = Background("it", lambda: hang, timeout_s=3600, give_up=said.append)
    background.put(1)
    assert hangs.wait(patience(10))
    assert said == []
    background._busy_since -= 3601
    for item in range(1000):  # none of these waits: it would for an hour
        background.put(item)
    background.close()
    background.join()
    assert said == ["it has not answered for 3600 s; the run goes on without it."]
    release.set()


def test_something_that_fails_is_given_up_once_with_its_reason():
    said = []

    def fail(items):
        raise OSError(f"no room for {items}")

    background = Background("it", lambda: fail, timeout_s=5, give_up=said.append)
    background.put("this")
    background.close()
    background.join()
    assert said == ["it failed: OSError: no room for ['this']; the run goes on without it."]
    assert background.given_up


def test_items_arrive_in_their_order_and_all_of_them():
    got = []
    background = Background("it", lambda: got.extend, timeout_s=5, give_up=pytest.fail)
    for item in range(5000):
        background.put(item)
    background.close()
    background.join()
    assert got == list(range(5000))
