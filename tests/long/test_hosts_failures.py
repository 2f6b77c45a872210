"""What fails on a cluster of machines, one after the other: what was under way goes on, and the time is printed."""

import contextlib
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest
from hosts import GATEWAY, without_storage
from hosts_cluster import HOME, TO_PIPE, WORKERS, Load, readme_cluster, report, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

EVERY = 20
LONG = [
    "--set=fine_tuning.training.epochs=10",
    f"--set=fine_tuning.training.checkpoint_every_steps={EVERY}",
    "--set=fine_tuning.training.log_every_s=1",
]
ELASTIC = ["--set=fine_tuning.distributed.workers=[1,2]"]
FIXED = ["--set=fine_tuning.distributed.workers=2", "--set=fine_tuning.distributed.nodes=2"]
AWAY_S = 60
IN_FLIGHT_S = 10


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The cluster of README's commands, with its dashboard led to the laptop."""
    with readme_cluster(tmp_path_factory.mktemp("model")) as made:
        yield made


@pytest.fixture(scope="module")
def served(cluster):
    """A replica on each worker."""
    cluster.serve(replicas=2)
    wait_for(lambda: cluster.replicas() == 2, 300, cluster.serving)
    return cluster


def finished(process, log):
    """Wait for a job that has to succeed; returns what it said."""
    status = process.wait(timeout=600)
    assert status == 0, log.read_text()[-4000:]
    return log.read_text()


def test_a_run_goes_on_from_its_last_checkpoint_when_a_node_is_cut_off_and_the_node_comes_back(cluster, tmp_path):
    log = tmp_path / "job.log"
    worker = cluster.machines[WORKERS[1]]
    with cluster.job_running(log, "cut", *ELASTIC, *LONG) as job:
        wait_for(lambda: cluster.checkpoints() or job.poll() is not None, 240, log.read_text)
        worker.cut()
        try:
            report(
                "training: the cluster noticed that a node is cut off after",
                wait_for(lambda: cluster.nodes() == 2, 240),
            )
            noticed = time.monotonic()
            wait_for(lambda: "training goes on after step" in log.read_text(), 240, log.read_text)
            report("training: goes on, counted from then, after", time.monotonic() - noticed)
        finally:
            worker.mend()
        said = finished(job, log)
    steps = [int(step) for step in re.findall(r"training goes on after step (\d+)", said)]
    assert steps[0] >= EVERY
    assert all(step % EVERY == 0 for step in steps)
    assert '"cut' in cluster.models()
    report("a node that is reached again is back after", wait_for(lambda: cluster.nodes() == 3, 240))


def test_a_run_waits_for_its_storage(cluster, tmp_path):
    log = tmp_path / "job.log"
    with cluster.job_running(log, "away", *FIXED, *LONG) as job:
        wait_for(lambda: cluster.checkpoints() or job.poll() is not None, 240, log.read_text)
        with without_storage():
            time.sleep(AWAY_S)
            assert job.poll() is None, log.read_text()[-4000:]
        known, began = cluster.checkpoints(), time.monotonic()
        wait_for(lambda: cluster.checkpoints() != known or job.poll() is not None, 120, log.read_text)
        report("training: goes on after the storage is back, after", time.monotonic() - began)
        finished(job, log)
    assert '"away' in cluster.models()


def test_requests_are_answered_while_the_storage_is_away(served):
    with Load(served) as load, without_storage():
        began = time.monotonic()
        refused = served.models()
        report("serving: a command says that the storage is away after", time.monotonic() - began)
        time.sleep(AWAY_S - (time.monotonic() - began))
    assert "s3://" in refused
    assert "can't be" in refused
    assert "[" in served.models()
    assert load.failed == [], load.timeline(began)
    assert len(load.answered) > 10
    assert len({text for _, _, text in load.answered}) == 1
    report("serving: the longest answer while the storage was away", max(took for _, took, _ in load.answered))


def test_a_head_that_cannot_reach_the_storage_says_so_and_requests_are_answered(served):
    """The head alone is cut off from it: this machine asks a worker, since what the head sends here is lost too."""
    with Load(served, host=WORKERS[0]) as load, served.machines["head"].cut_from(GATEWAY):
        began = time.monotonic()
        refused = served.models()
        report("partition: a command on the head says that the storage is away after", time.monotonic() - began)
        seen = served.models(WORKERS[0])
        answered = len(load.answered)
        wait_for(lambda: len(load.answered) > answered + 4, 60)
    assert "can't be" in refused
    assert "[" in seen, "a worker reaches it"
    assert load.failed == []
    report("partition: the head reads again after", wait_for(lambda: "[" in served.models(), 120))


def test_a_serving_node_that_is_cut_off_fails_requests_in_flight_alone_and_comes_back(served):
    worker = served.machines[WORKERS[1]]
    with Load(served) as load:
        wait_for(lambda: len(load.answered) > 8, 60)
        worker.cut()
        cut = time.monotonic()
        try:
            time.sleep(90)
        finally:
            worker.mend()
        mended = time.monotonic()
        wait_for(lambda: served.nodes() == 3, 240)
        report("serving: the node is back after", time.monotonic() - mended)
        wait_for(lambda: served.replicas() == 2, 300, served.serving)
        report("serving: its replica is back after", time.monotonic() - mended)
    late = [(began - cut, said) for began, said in load.failed if began > cut + IN_FLIGHT_S]
    in_flight = [(began - cut, said) for began, said in load.failed if began <= cut + IN_FLIGHT_S]
    report(f"serving: {len(in_flight)} requests failed, the last sent after", max([0, *(at for at, _ in in_flight)]))
    report("serving: the longest answer", max(took for _, took, _ in load.answered))
    assert late == []
    assert len(in_flight) <= 3 * 4  # of four clients
    assert len({text for _, _, text in load.answered}) == 1


COMMIT = """
import datetime as dt, os, sys
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.storage import Location
skew = dt.timedelta(minutes=int(sys.argv[2]))
clock = lambda: dt.datetime.now(dt.UTC) + skew
registry = RegistryService(Location(sys.argv[1]), token=os.environ["LLAMAFARM_TOKEN"], clock=clock)
registry.add_principal("skewed" + sys.argv[2].replace("-", "b"), {"*": Role.VIEWER})
"""


def test_a_clock_that_is_five_minutes_wrong_commits_in_order_and_one_that_is_eleven_does_not(cluster):
    def commit(minutes):
        words = ["python", "-c", COMMIT, HOME, str(minutes)]
        return cluster.on_node(WORKERS[0], shlex.join(words))

    for minutes in (5, -5, 0):
        done = commit(minutes)
        assert done.returncode == 0, done.stdout
    verified = cluster.on_node("head", f"llamafarm registry verify --home {HOME}")
    assert verified.returncode == 0, verified.stdout
    for minutes in (11, -11):
        done = commit(minutes)
        assert done.returncode != 0
        assert "Nothing was committed: this machine's clock says" in done.stdout
    checked = cluster.on_node("head", "llamafarm cluster check --address auto --json")
    assert '"subject": "clock"' in checked.stdout, checked.stdout


def test_a_full_disk_ends_a_run_with_its_name_and_the_same_job_goes_on(cluster, tmp_path):
    cluster.typed("serve", "shutdown", "-y")
    log = tmp_path / "job.log"
    outputs = Path.home() / "llamafarm-jobs"
    with contextlib.ExitStack() as stack:
        fill = [stack.enter_context(cluster.machines[name].small_disk(outputs)) for name in WORKERS]
        known = set(cluster.checkpoints())
        with cluster.job_running(log, "full", *FIXED, *LONG) as job:
            wait_for(lambda: set(cluster.checkpoints()) - known or job.poll() is not None, 240, log.read_text)
            for one in fill:
                one()
            began = time.monotonic()
            assert job.wait(timeout=900) != 0, log.read_text()[-4000:]
            report("training: a full disk has ended it after", time.monotonic() - began)
        assert re.search(r"disk is full|No space left", log.read_text()), log.read_text()[-4000:]
        for name in WORKERS:
            cluster.machines[name].run("rm", str(outputs / "full"))
        done = subprocess.run(cluster.job("full", *FIXED, *LONG), check=False, **TO_PIPE)
        assert done.returncode == 0, done.stdout[-4000:]
        assert re.search(r"An unfinished run goes on after step (\d+)", done.stdout)
    assert '"full' in cluster.models()


def test_after_the_head_was_lost_ray_up_brings_everything_back_and_the_same_job_goes_on(cluster, tmp_path):
    cluster.typed("serve", "shutdown", "-y")
    log = tmp_path / "job.log"
    known = cluster.models()
    with cluster.job_running(log, "head", *FIXED, *LONG) as job:
        wait_for(lambda: cluster.checkpoints() or job.poll() is not None, 240, log.read_text)
        cluster.machines["head"].crash()
    began = time.monotonic()
    cluster.up()
    assert cluster.models() == known
    with cluster.dashboard():  # what led it to the laptop ended with the head
        done = subprocess.run(cluster.job("head", *FIXED, *LONG), check=False, **TO_PIPE)
    report("the head lost: the same job has ended after", time.monotonic() - began)
    assert done.returncode == 0, done.stdout[-4000:]
    (step,) = re.findall(r"An unfinished run goes on after step (\d+)", done.stdout)
    assert int(step) >= EVERY
    assert '"head' in cluster.models()
    began = time.monotonic()
    cluster.serve(replicas=1)
    assert cluster.asked().status_code == 200
    report("the head lost: serve deploy answers after", time.monotonic() - began)
