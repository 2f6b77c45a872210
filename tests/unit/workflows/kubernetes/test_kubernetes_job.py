"""A training as a RayJob, and manifests sent by the real kubectl to an API server on loopback."""

import json
import shutil
import uuid
from pathlib import Path

import kubernetes_api
import pytest
import yaml
from kuberay import validate
from tiny_adapters import write_base

from llamafarm_ray.cli.main import run
from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import ConflictError, DeploymentError, InputError, NotFoundError, TrainingError, UserError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.storage import Location
from llamafarm_ray.workflows.kubernetes import apply as kubectl
from llamafarm_ray.workflows.kubernetes import as_yaml, ray_job, ray_service
from llamafarm_ray.workflows.versions.register import Registration, register

BASE = Path(__file__).resolve().parents[4] / "cluster" / "kubernetes" / "base"
IMAGE = "registry.example.com/llamafarm:1.0"
DOCUMENTS = "s3://bucket/documents"


@pytest.fixture
def registry(tmp_path):
    """A home that is no folder, with ``Support_Base:1.0.0``."""
    made = RegistryService(Location(f"memory://{uuid.uuid4().hex}/home"), cache=tmp_path / "cache")
    register(made, Registration(write_base(tmp_path / "Support_Base")))
    return made


def config(**more):
    table = {
        "name": "support-bot",
        "base_model": "Support_Base",
        "dataset": {"source": {"path": DOCUMENTS}},
        "deployment": {"image": IMAGE},
    }
    return parse_config(table | more)


def job_of(manifests):
    configuration, job = manifests
    return json.loads(configuration["data"]["config.json"]), job["spec"]


def workers(spec):
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    return group, container["resources"]["limits"]


def test_it_is_what_kuberay_takes(registry):
    manifests = ray_job(config(), registry)
    validate(manifests[-1])
    assert list(yaml.safe_load_all(as_yaml(*manifests))) == manifests


def test_every_pod_is_one_that_the_policy_of_the_namespace_holds_for_and_prometheus_scrapes(registry):
    service = ray_service(config(deployment={"image": IMAGE, "require_key": False}), registry)
    job = ray_job(config(), registry)[-1]
    specs = [service["spec"]["rayClusterConfig"], job["spec"]["rayClusterSpec"]]
    groups = [group for spec in specs for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    policy = yaml.safe_load((BASE / "network.yaml").read_text(encoding="utf-8"))
    monitor = yaml.safe_load((BASE / "monitoring.yaml").read_text(encoding="utf-8"))
    for template in [*(group["template"] for group in groups), job["spec"]["submitterPodTemplate"]]:
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert template["spec"]["automountServiceAccountToken"] is False
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        (container,) = template["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    scraped = monitor["spec"]["podMetricsEndpoints"][0]["port"]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        assert scraped in {port["name"] for port in container["ports"]}
    assert "command" not in job["spec"]["submitterPodTemplate"]["spec"]["containers"][0], "the operator sets it"


def test_the_job_trains_by_the_configuration_registers_and_goes_on_after_a_failure(registry):
    configuration, job = ray_job(config(), registry)
    table, spec = job_of([configuration, job])
    read = parse_config(table)
    assert (read.base_model, read.name, read.home) == ("Support_Base:1.0.0", "support-bot", registry.home.uri)
    assert read.fine_tuning.training.checkpoint_location == f"{registry.home.uri}/checkpoints"
    words = spec["entrypoint"].split()
    assert words[:4] == ["llamafarm", "models", "train", "--register"]
    assert words[words.index("--output") + 1].startswith("/"), "the same place each time: the run is known by it"
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (mount,) = [one for one in head["containers"][0]["volumeMounts"] if one["name"] == "config"]
    assert words[words.index("--config") + 1] == f"{mount['mountPath']}/config.json"
    assert {"name": "config", "configMap": {"name": configuration["metadata"]["name"]}} in head["volumes"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_a_place_for_checkpoints_that_is_given_stays(registry):
    training = {"training": {"checkpoint_location": "s3://elsewhere/points"}}
    table, _ = job_of(ray_job(config(fine_tuning=training), registry))
    assert table["fine_tuning"]["training"]["checkpoint_location"] == "s3://elsewhere/points"


@pytest.mark.parametrize(
    ("distributed", "nodes", "limits"),
    [
        ({}, (1, 1), {"cpu": "5", "memory": "32Gi"}),
        ({"gpus": 2, "nodes": 3}, (3, 3), {"cpu": "9", "memory": "64Gi", "nvidia.com/gpu": "2"}),
        ({"workers": 4, "nodes": 2, "cpus_per_worker": 8}, (2, 2), {"cpu": "17", "memory": "64Gi"}),
        ({"workers": [1, 4]}, (1, 4), {"cpu": "5", "memory": "32Gi"}),
    ],
)
def test_there_is_a_pod_for_each_node_of_the_configuration(registry, distributed, nodes, limits):
    _, spec = job_of(ray_job(config(fine_tuning={"distributed": distributed}), registry))
    group, found = workers(spec)
    assert ((group["minReplicas"], group["maxReplicas"]), found) == (nodes, limits)
    assert ("tolerations" in group["template"]["spec"]) == ("nvidia.com/gpu" in limits)


def test_what_pods_could_not_read_is_refused(registry, tmp_path):
    (tmp_path / "qa.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"dataset\.path: .*qa\.jsonl' is a file or folder of this machine"):
        ray_job(config(dataset={"path": str(tmp_path / "qa.jsonl")}), registry)
    with pytest.raises(InputError, match="base_model: "):
        ray_job(config(base_model=str(tmp_path / "Support_Base")), registry)
    with pytest.raises(InputError, match=r"deployment\.image is not set"):
        ray_job(config(deployment={}), registry)
    with pytest.raises(InputError, match="is a folder of this machine, which pods can't read"):
        ray_job(config(), RegistryService(Location(tmp_path / "home")))
    with pytest.raises(NotFoundError, match="nope"):
        ray_job(config(base_model="nope"), registry)
    hub, _ = job_of(ray_job(config(base_model="meta-llama/Llama-3.1-8B"), registry))
    assert hub["base_model"] == "meta-llama/Llama-3.1-8B"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--apply"], "--apply is for manifests"),
        (["train", "--target", "kubernetes", "--address", "auto"], "--address and --no-wait are for Ray clusters"),
        (["train", "--target", "kubernetes", "--output", "x"], "--output is a folder, and pods' folders go with them"),
        (["deploy", "--apply"], "--apply is for manifests"),
    ],
)
def test_options_that_mean_nothing_there_are_refused(arguments, said, capsys):
    assert run(["models", *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A function that points kubectl to an API server of the test, which shows statuses, or a list of them, in turn."""
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("HOME", str(tmp_path))  # its cache
    monkeypatch.setattr(kubectl, "_POLL_S", 0)

    def serving(*statuses):
        given = statuses[0] if statuses and isinstance(statuses[0], list) else statuses
        return kubernetes_api.serving(tmp_path / "kubeconfig", given)

    return serving


RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}


def test_a_job_that_is_applied_is_watched_to_its_end(registry, cluster):
    manifests = ray_job(config(), registry)
    seen = []
    with cluster({}, RUNNING, {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}) as created:
        kubectl.apply(manifests)
        assert created["RayJob"]["spec"] == manifests[1]["spec"]
        assert created["ConfigMap"]["data"] == manifests[0]["data"]
        kubectl.watch(manifests[1], timeout_s=60, on_state=lambda state, _: seen.append(state))
    assert seen == ["New", "Running RUNNING", "Complete SUCCEEDED"]


COMPLETE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


def apply_and_watch(manifests):
    seen = []
    kubectl.apply(manifests)
    kubectl.watch(manifests[-1], timeout_s=60, on_state=lambda state, _: seen.append(state))
    return seen


def test_a_training_that_is_applied_again_runs_again(registry, cluster):
    statuses = [COMPLETE]
    with cluster(statuses) as created:
        manifests = ray_job(config(), registry)
        apply_and_watch(manifests)
        first = created["RayJob"]["metadata"]["uid"]
        statuses[:] = [COMPLETE, {}, COMPLETE]  # the first read is that of the old one
        assert apply_and_watch(manifests) == ["New", "Complete SUCCEEDED"]
        second = created["RayJob"]["metadata"]["uid"]
        assert second != first
        changed = ray_job(config(seed=7), registry)
        statuses[:] = [{"jobDeploymentStatus": "Failed", "jobStatus": "FAILED"}, {}, COMPLETE]
        assert apply_and_watch(changed)[-1] == "Complete SUCCEEDED"
        assert created["RayJob"]["metadata"]["uid"] not in {first, second}
        assert created["ConfigMap"]["data"] == changed[0]["data"]


def test_a_training_that_runs_is_watched_and_another_of_its_name_refused(registry, cluster):
    statuses = [RUNNING]
    with cluster(statuses) as created:
        manifests = ray_job(config(), registry)
        kubectl.apply(manifests)
        uid = created["RayJob"]["metadata"]["uid"]
        with pytest.raises(ConflictError, match="RayJob llamafarm-train-support-bot runs with another configuration"):
            kubectl.apply(ray_job(config(seed=7), registry))
        assert created["ConfigMap"]["data"] == manifests[0]["data"], "it would train by another configuration"
        statuses[:] = [RUNNING, RUNNING, COMPLETE]
        assert apply_and_watch(manifests)[-1] == "Complete SUCCEEDED"
        assert created["RayJob"]["metadata"]["uid"] == uid


def service(generation, **status):
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    return ready | {"observedGeneration": generation} | status


def application(status, **more):
    return {"applicationStatuses": {"llamafarm": {"status": status, **more}}}


def test_a_service_that_lives_is_not_up_with_a_new_manifest_before_it_is(registry, cluster):
    def manifest(**deployment):
        table = {"target": "kubernetes", "image": IMAGE, "require_key": False, **deployment}
        return [ray_service(config(deployment=table), registry)]

    statuses = [service(1, activeServiceStatus=application("RUNNING"))]
    with cluster(statuses) as created:
        assert apply_and_watch(manifest()) == ["Running"]
        statuses[:] = [
            service(1),  # read by kubectl to make the patch
            service(1, activeServiceStatus=application("RUNNING")),
            service(2, activeServiceStatus=application("DEPLOYING")),
            service(2, activeServiceStatus=application("RUNNING"), pendingServiceStatus={"rayClusterName": "new"}),
            service(2, activeServiceStatus=application("RUNNING")),
        ]
        assert apply_and_watch(manifest(max_loras=3)) == ["Applied", "Upgrading", "Upgrading", "Running"]
        assert created["RayService"]["metadata"]["generation"] == 2


def test_a_first_deployment_that_fails_says_so_at_once(registry, cluster):
    table = {"target": "kubernetes", "image": IMAGE, "require_key": False}
    failed = {"observedGeneration": 1, "pendingServiceStatus": application("DEPLOY_FAILED", message="no such model")}
    with cluster([failed]), pytest.raises(DeploymentError, match="failed: no such model"):
        apply_and_watch([ray_service(config(deployment=table), registry)])


def test_a_job_that_fails_says_why(registry, cluster):
    manifests = ray_job(config(), registry)
    failed = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": "Job entrypoint exited with 1"}
    with cluster(failed):
        kubectl.apply(manifests)
        with pytest.raises(TrainingError, match="train-support-bot failed: Job entrypoint exited with 1"):
            kubectl.watch(manifests[1], timeout_s=60, on_state=lambda *_: None)


def test_a_cluster_that_is_not_there_is_named_by_kubectl(registry, cluster, tmp_path):
    with cluster():
        pass  # its address stays in the file
    with pytest.raises(InputError, match=r"kubectl did not take the manifest: .*127\.0\.0\.1"):
        kubectl.apply(ray_job(config(), registry))


def test_without_kubectl_it_says_what_to_do(registry, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="no kubectl"):
        kubectl.apply(ray_job(config(), registry))


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        ("RayJob", {}, ("New", None, "")),
        ("RayJob", {"jobDeploymentStatus": "Complete", "jobStatus": "FAILED"}, ("Complete FAILED", False, "")),
        ("RayService", {}, ("Starting", None, "")),
        ("RayService", {"conditions": [{"type": "Ready", "status": "True"}]}, ("Running", True, "")),
        (
            "RayService",
            {
                "activeServiceStatus": {
                    "applicationStatuses": {"llamafarm": {"status": "DEPLOY_FAILED", "message": "no GPU"}}
                }
            },
            ("Starting", False, "no GPU"),
        ),
    ],
)
def test_statuses_of_kuberay_are_understood(kind, status, expected):
    assert kubectl._state(kind, {"status": status}) == expected
