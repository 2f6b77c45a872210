"""A head without CPUs plans with the machines that its autoscaler may start, and gets them: Ray's fake_multinode."""

import json
import subprocess
import sys

import pytest
from e2e_tools import ROOT
from own_cluster import autoscaling

pytestmark = pytest.mark.long

TYPES = {
    "train": {"resources": {"CPU": 1, "GPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    "serve": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
}
PLAN = """
import json
import ray
from llamafarm_ray.capacity import machines
from llamafarm_ray.config import Distributed
from llamafarm_ray.evaluation.remote import run_on_ray
from llamafarm_ray.training.plan import resources
from llamafarm_ray.workflows.tuning.sizes import num_concurrent_trials
from llamafarm_ray.config import parse_config
from llamafarm_ray.tuning.space import Space

ray.init(logging_level="ERROR", log_to_driver=False)
before = [[dict(one.resources).get("GPU", 0), one.is_running] for one in machines()]
resources._inspect_gpu = lambda: (48 * 2**30, True)
notes = []
distributed = Distributed(gpus=2)
hardware = resources.find_hardware(2, notes.append)
workers = resources.choose_workers(distributed, hardware)
config = parse_config({"fine_tuning": {"distributed": {"workers": 1}}})
after = [dict(one["Resources"]).get("GPU", 0) for one in ray.nodes() if one["Alive"]]
print(json.dumps({
    "before": before, "notes": len(notes), "gpus": hardware.num_gpus, "use_gpu": workers.use_gpu,
    "num_workers": workers.num_workers, "after": after,
    "trials": num_concurrent_trials(config, Space.of(config, {}), None),
    "evaluated_on": run_on_ray("own_cluster_functions:gpus", {}),
}))
"""


def test_a_head_alone_gets_the_machine_that_a_training_needs():
    with autoscaling(TYPES, max_workers=3) as (_, variables):
        done = subprocess.run(
            [sys.executable, "-c", PLAN],
            env=variables,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["before"] == [[0, True], [2, False], [2, False], [1, False]], "three machines, the larger ones first"
    assert (found["gpus"], found["use_gpu"], found["num_workers"]) == (5, True, 2)
    assert found["notes"] == 1, "it says that it waits for a machine"
    assert sorted(found["after"]) == [0, 2], "one machine of two GPUs, not two of one"
    assert found["trials"] == 2, "one on each machine's CPU, but for the one that data needs"
    assert found["evaluated_on"] == 1
