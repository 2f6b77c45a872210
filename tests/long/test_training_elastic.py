"""Nodes that go and come while a run trains: it goes on with as many workers as there are, to the same losses."""

import os
import signal
import subprocess
import time

import psutil
import pytest
from e2e_tools import BIN, ROOT
from own_cluster import joined, own_cluster
from tiny_model import make_tiny_model
from training_strikes import Case, driving, events, outcome

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

STEPS_AN_EPOCH = 6
MANY_EPOCHS = 300
"""As long as it takes to drain a node."""
NEVER = 10**6


@pytest.fixture
def cluster():
    """A head with room for one worker."""
    with own_cluster(num_cpus=1) as (_, variables):
        yield variables


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "base", hidden_size=36)


def case(base, strategy="ddp", *, every=2, epochs=10):
    training = {"epochs": epochs, "batch_size": 2, "learning_rate": 1e-3, "checkpoint_every_steps": every}
    distributed = {"workers": [1, 2], "cpus_per_worker": 1, "strategy": strategy}
    fine_tuning = {
        "method": "lora",
        "parameters": {"r": 4},
        "training": training | {"log_every_s": 0.0, "precision": "fp32"},
        "distributed": distributed,
    }
    return Case(str(base), fine_tuning)


def wait_until(condition, process):
    while not condition():
        assert process.poll() is None, "the driver ended before it should"
        time.sleep(0.1)


def steps(folder):
    return [event["step"] for event in events(folder, "step")]


def kill(process):
    """End a node as a lost machine does: nothing of it is left to say so."""
    for one in (*psutil.Process(process.pid).children(recursive=True), process):
        os.kill(one.pid, signal.SIGKILL)


def resumed_after(folder):
    texts = [event["text"] for event in events(folder, "note") if "training goes on after step" in event["text"]]
    return int(texts[-1].rstrip(".").rpartition(" ")[2])


def run(folder, variables, *, during=None):
    with driving(folder, variables) as process:
        if during is not None:
            during(process)
        assert process.wait(timeout=600) == 0, max(folder.glob("driver-*.log")).read_text()[-3000:]
    found = outcome(folder)
    assert "losses" in found, found
    return found["losses"]


@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_zero1", "deepspeed_zero3"])
def test_a_run_goes_on_with_one_worker_after_a_node_is_lost(cluster, base_model, tmp_path, strategy):
    whole = case(base_model, strategy).write(tmp_path / "whole")
    lost = case(base_model, strategy).write(tmp_path / "lost")
    with joined(cluster) as (node, _):
        expected = run(whole, cluster)

        def lose(process):
            wait_until(lambda: steps(lost) and steps(lost)[-1] >= 9, process)
            kill(node)

        losses = run(lost, cluster, during=lose)
    assert len(expected) == 10 * STEPS_AN_EPOCH
    ranks = [event["rank"] for event in events(lost, "worker")]
    assert sorted(ranks[:2]) == [0, 1]
    assert set(ranks[2:]) == {0}
    step = resumed_after(lost)
    assert step >= 8
    # One worker adds a window's gradients up in another order than two, and what that changes grows with the steps.
    assert losses[: step + 3] == pytest.approx(expected[: step + 3], abs=1e-5)
    assert losses == pytest.approx(expected, abs=1e-2)


def test_a_notice_that_a_node_will_go_makes_a_checkpoint_and_no_step_before_it_is_repeated(
    cluster, base_model, tmp_path
):
    folder = case(base_model, every=NEVER, epochs=MANY_EPOCHS).write(tmp_path / "run")
    with joined(cluster) as (node, node_id):

        def drain(process):
            wait_until(lambda: steps(folder) and steps(folder)[-1] >= 5, process)
            assert not list(folder.glob("**/checkpoint.json"))
            command = [BIN / "ray", "drain-node", f"--node-id={node_id}"]
            command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
            command += ["--deadline-remaining-seconds=600"]
            subprocess.run(command, env=cluster, cwd=ROOT, check=True, capture_output=True, timeout=60)
            wait_until(lambda: list(folder.glob("**/checkpoint.json")), process)
            kill(node)

        losses = run(folder, cluster, during=drain)
    assert resumed_after(folder) > 5
    assert len(losses) == MANY_EPOCHS * STEPS_AN_EPOCH
