"""What goes wrong around a run is an error that names it within a minute, never a hang; the last checkpoint stays."""

import re
import socket
import subprocess
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from own_cluster import own_cluster
from tiny_model import make_tiny_model
from training_strikes import Case, Strike, drive, driving, events, outcome

from llamafarm_ray.errors import StorageError
from llamafarm_ray.storage import Location

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

NAMED_WITHIN_S = 60
NUM_STEPS = 24
MANY_EPOCHS = 40
"""As long as it takes to do something to a run."""
WHOLE = re.compile(r"step-(\d+)-\w+/checkpoint\.json$")


@pytest.fixture(scope="module")
def cluster():
    with own_cluster() as (_, variables):
        yield variables


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "base", hidden_size=32)


@pytest.fixture
def case(base_model, tmp_path):
    """A function that makes a run of two workers, with a checkpoint after every second step."""

    def make(*strikes, folder="run", strategy="ddp", **training):
        training = {"epochs": 4.0, "batch_size": 2, "checkpoint_every_steps": 2, "log_every_s": 0.0} | training
        fine_tuning = {"method": "lora", "training": training, "distributed": {"workers": 2, "strategy": strategy}}
        return Case(str(base_model), fine_tuning, strikes=list(strikes)).write(tmp_path / folder)

    return make


def first(folder, kind, pattern=""):
    """The first event of a kind whose text matches."""
    found = [event for event in events(folder, kind) if re.search(pattern, event.get("text", ""))]
    assert found, [event["text"] for event in events(folder, "note")]
    return found[0]


def whole_checkpoints(folder):
    return sorted(int(path.parent.name.split("-")[1]) for path in Path(folder).glob("**/checkpoint.json"))


@pytest.mark.parametrize("moment", ["start", "begin"])
def test_a_worker_that_dies_at_each_start_ends_the_run(case, cluster, moment):
    folder = case(Strike(0, moment, rank=1, times=99))
    assert drive(folder, cluster) == 0
    found = outcome(folder)
    assert found["error"] == "TrainingError"
    assert "The workers were lost 4 times in a row" in found["message"]
    strikes = events(folder, "strike")
    assert len(strikes) == 4
    assert events(folder, "end")[0]["time"] - strikes[-1]["time"] < NAMED_WITHIN_S


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("action", ["stop", "sleep"])
def test_a_rank_that_stands_still_is_named_and_the_run_recovers(case, cluster, action, rank):
    folder = case(Strike(9, "gradient", action=action, rank=rank))
    assert drive(folder, cluster) == 0
    struck = events(folder, "strike")[0]
    named = first(folder, "note", r"no sign of life|stood still")
    assert named["time"] - struck["time"] < NAMED_WITHIN_S
    if action == "stop":
        assert f"process {struck['pid']} " in named["text"]
    assert "training goes on after step 8" in first(folder, "note", "started again")["text"]
    assert len(outcome(folder)["losses"]) == NUM_STEPS


def test_all_workers_that_stand_still_are_named_and_the_run_recovers(case, cluster):
    folder = case(Strike(9, "begin", target="all", action="stop"))
    assert drive(folder, cluster) == 0
    assert first(folder, "note", "no sign of life")["time"] - events(folder, "strike")[0]["time"] < NAMED_WITHIN_S
    assert len(outcome(folder)["losses"]) == NUM_STEPS


def test_a_rank_that_stands_still_at_the_same_step_again_ends_the_run_and_leaves_its_checkpoint(case, cluster):
    folder = case(Strike(9, "gradient", action="sleep", rank=1, times=99))
    assert drive(folder, cluster) == 0
    found = outcome(folder)
    assert found["error"] == "TrainingError"
    assert re.search(r"Training has stood still for 3\d s.*worker 1 .*after step 9", found["message"])
    assert "the same command goes on from it" in found["hint"]
    strikes = events(folder, "strike")
    assert len(strikes) == 2
    assert events(folder, "end")[0]["time"] - strikes[-1]["time"] < NAMED_WITHIN_S
    assert whole_checkpoints(folder) == [6, 8]


@contextmanager
def small_disk(folder, megabytes):
    """A file system in memory."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path):
    """Take all space that is left; what is returned gives it back when it is deleted."""
    path.touch()
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return path


def wait_for_step(folder, step, process):
    deadline = time.monotonic() + 600
    while not any(event["step"] >= step for event in events(folder, "step")):
        assert process.poll() is None, outcome(folder)
        assert time.monotonic() < deadline
        time.sleep(0.1)


def check_storage_error(folder, since, place):
    """The last driver ended with a `StorageError` that names the place, soon after ``since``."""
    found = outcome(folder)
    assert found.get("error") == "StorageError", found
    assert place in found["message"], found
    assert events(folder, "end")[-1]["time"] - since < NAMED_WITHIN_S
    return found


def check_goes_on(folder, cluster, step):
    """Another driver goes on after a step, to the end."""
    assert drive(folder, cluster) == 0
    found = outcome(folder)
    assert len(found.get("losses", ())) == MANY_EPOCHS * NUM_STEPS // 4, found
    notes = [event["text"] for event in events(folder, "note")]
    assert any(f"goes on after step {step} of" in note for note in notes), notes


@pytest.mark.parametrize("what", ["checkpoints", "run"])
def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_space(case, cluster, tmp_path, what):
    """The disk of the checkpoints, or that of the whole run, its logs and history too."""
    disk = tmp_path / "disk"
    with small_disk(disk, 48):
        more = {"checkpoint_location": str(disk / "kept")} if what == "checkpoints" else {}
        folder = case(folder="disk/run" if what == "run" else "run", epochs=MANY_EPOCHS, **more)
        told = tmp_path / "events.jsonl"
        if what == "run":  # what happens is told elsewhere
            (folder / "events.jsonl").symlink_to(told)
            (folder / "outcome.json").symlink_to(tmp_path / "outcome.json")
        with driving(folder, cluster, log=tmp_path / "driver.log") as process:
            wait_for_step(folder, 6, process)
            since = time.time()
            ballast = fill(disk / "ballast")
            assert process.wait(timeout=300) == 0, (tmp_path / "driver.log").read_text()
        whole = whole_checkpoints(disk)
        found = check_storage_error(folder, since, str(disk))
        assert "No space left" in found["message"] or "full" in found["message"]
        assert whole
        ballast.unlink()
        check_goes_on(folder, cluster, whole[-1])


class Gate:
    """A port that leads to another one, or is silent (takes everything and answers nothing), or closed."""

    def __init__(self, target):
        self._target = target
        self._is_silent = False
        self._connections = []
        self._listener = None
        self._port = 0
        self.open()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}"

    def open(self):
        """Listen, on the same port as before."""
        self._is_silent = False
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self._port))
            self._port = self._listener.getsockname()[1]
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def silence(self):
        """Answer nothing from now on."""
        self._is_silent = True

    def close(self):
        """End all connections, and take no more."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in self._connections:
            connection.close()
        self._connections = []

    def _accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            self._connections += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source, sink):
        try:
            while data := source.recv(65536):
                if not self._is_silent:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


@pytest.fixture(scope="module")
def gate(s3_server):
    address = urlsplit(s3_server.endpoint_url)
    made = Gate((address.hostname, address.port))
    yield made
    made.close()


@pytest.fixture(scope="module")
def cloudy(gate):
    """A cluster whose object store is behind the gate."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with own_cluster(AWS_ENDPOINT_URL=gate.url, AWS_EC2_METADATA_DISABLED="true", **keys) as (_, variables):
        variables.pop("AWS_MAX_ATTEMPTS", None)
        yield variables


@pytest.fixture
def place(s3_server, gate):
    name = f"test-{uuid.uuid4().hex}"
    s3_server.mkdir(name)
    gate.open()
    return f"s3://{name}/kept"


@pytest.mark.parametrize("trouble", ["close", "silence"])
def test_a_bucket_that_can_t_be_reached_any_more_is_named_and_the_run_goes_on_later(
    case, cloudy, gate, s3_server, place, trouble
):
    folder = case(epochs=MANY_EPOCHS, checkpoint_location=place)
    with driving(folder, cloudy) as process:
        wait_for_step(folder, 6, process)
        since = time.time()
        getattr(gate, trouble)()
        assert process.wait(timeout=300) == 0
    check_storage_error(folder, since, place)
    gate.close()
    gate.open()
    whole = sorted(int(found[1]) for path in s3_server.find(place) if (found := WHOLE.search(path)))
    assert whole
    check_goes_on(folder, cloudy, whole[-1])


@pytest.mark.parametrize("trouble", ["close", "silence"])
def test_a_bucket_that_can_t_be_reached_is_named_at_once(gate, place, monkeypatch, trouble):
    """By each operation, before and between runs."""
    for name, value in (("ENDPOINT_URL", gate.url), ("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    location = Location(place)
    location.write("a", b"b")
    getattr(gate, trouble)()
    for ask in (
        lambda: list(location.walk("checkpoints")),
        lambda: location.read_many(["a"]),
        lambda: location.write("a", b"c"),
    ):
        began = time.monotonic()
        with pytest.raises(StorageError, match=place):
            ask()
        assert time.monotonic() - began < NAMED_WITHIN_S
    gate.close()
    gate.open()
    assert location.read("a") in {b"b", b"c"}
