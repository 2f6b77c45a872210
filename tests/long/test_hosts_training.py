"""Work that takes all machines of README's cluster: ZeRO-3 over two nodes, a sweep, a build of a dataset."""

import subprocess
import time

import pytest
from hosts_cluster import BASE, SHARED, TO_PIPE, readme_cluster, report

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

CONFIG = ["--config", "jobs/configs/basic_lora.yaml", f"--set=base_model={BASE}"]
ON_BOTH = [
    "--set=fine_tuning.distributed.workers=2",
    "--set=fine_tuning.distributed.nodes=2",
    "--set=fine_tuning.distributed.cpus_per_worker=1",
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The cluster of README's commands, with its dashboard led to the laptop."""
    with readme_cluster(tmp_path_factory.mktemp("model")) as made:
        yield made


def done_on(cluster, what, command):
    """Run a job to its end; returns the workers that ended a task of it."""
    before, began = cluster.tasks(), time.monotonic()
    done = subprocess.run(command, check=False, **TO_PIPE)
    assert done.returncode == 0, done.stdout[-4000:]
    report(what, time.monotonic() - began)
    after = cluster.tasks()
    return {after[task] for task in after.keys() - before.keys()} & cluster.workers()


def test_zero_3_trains_on_both_workers(cluster):
    more = ["--set=fine_tuning.distributed.strategy=deepspeed_zero3", "--set=fine_tuning.training.max_steps=4"]
    assert done_on(cluster, "ZeRO-3: 4 steps", cluster.job("zero", *ON_BOTH, *more)) == cluster.workers()
    assert '"zero' in cluster.models()


def test_a_sweeps_trials_train_on_both_workers(cluster):
    more = [
        "--set=name=sweep",
        "--set=tuning.search=random",
        "--set=fine_tuning.training.max_steps=4",
        "--num-trials=2",
    ]
    sweep = ["--config", "jobs/configs/tune.yaml", f"--set=base_model={BASE}", "--output", str(SHARED / "sweep")]
    command = cluster.script("tune", *sweep, *ON_BOTH, *more)
    assert done_on(cluster, "a sweep of 2 trials", command) == cluster.workers()
    assert (SHARED / "sweep" / "best.yaml").is_file()
    assert '"sweep' in cluster.models()


def test_a_build_reads_documents_on_both_workers(cluster):
    documents = SHARED / "documents"
    documents.mkdir()
    for number in range(450):  # three tasks
        built = f"The mill of village {number} was built in {1500 + number}. It opens at 09:00."
        (documents / f"{number}.md").write_text(f"# The mill of village {number}\n\n{built}\n")
    command = cluster.script(
        "create_dataset", *CONFIG, "--set=name=parts", "--source", str(documents), "--output", str(SHARED / "parts")
    )
    assert done_on(cluster, "a build of 450 documents", command) == cluster.workers()
    assert (SHARED / "parts" / "report.json").is_file()
