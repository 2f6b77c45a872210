"""The manifests for Kubernetes: as KubeRay takes them, by overlay, closed to others, able to end and to restart."""

import json
import re
import shutil
import subprocess
from functools import cache

import jsonschema
import kubernetes_schemas
import kustomize
import pytest
import yaml
from kuberay import ROOT, validate

from llamafarm_ray.config import parse_config
from llamafarm_ray.serving.deployment.autoscaling import DEREGISTRATION_S, DRAIN_S

KUBERNETES = ROOT / "cluster" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())


@cache
def resolved(overlay):
    return kustomize.build(KUBERNETES / "overlays" / overlay)


def of_kind(overlay, kind):
    return [one for one in resolved(overlay) if one["kind"] == kind]


def clusters(overlay):
    """The cluster specs of an overlay: of jobs, and of the endpoint."""
    (jobs,), (service,) = of_kind(overlay, "RayCluster"), of_kind(overlay, "RayService")
    return {"jobs": jobs["spec"], "serve": service["spec"]["rayClusterConfig"]}


def groups(spec):
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pods(overlay):
    found = [group["template"]["spec"] for spec in clusters(overlay).values() for group in groups(spec)]
    return [*found, *(one["spec"]["jobTemplate"]["spec"]["template"]["spec"] for one in of_kind(overlay, "CronJob"))]


def check_confined(pod):
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        allowed = container["securityContext"]
        assert allowed["allowPrivilegeEscalation"] is False
        assert allowed["readOnlyRootFilesystem"] is True
        assert allowed["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"] == container["resources"]["requests"]
        written = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/tmp", "/home/llamafarm"} <= written  # noqa: S108


def applications(overlay):
    (service,) = of_kind(overlay, "RayService")
    return yaml.safe_load(service["spec"]["serveConfigV2"])


def test_there_are_three_overlays():
    assert OVERLAYS == ["dev", "production", "staging"]


COMPONENT = "app.kubernetes.io/component"
KINDS = "ConfigMap CronJob NetworkPolicy PodDisruptionBudget PodMonitor RayCluster RayService"


@pytest.mark.parametrize("kind", KINDS.split())
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_resource_is_what_kubernetes_and_the_operators_take(overlay, kind):
    found = of_kind(overlay, kind)
    assert found
    for manifest in found:
        kubernetes_schemas.validate(manifest)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_resource_is_left_out(overlay):
    assert {one["kind"] for one in resolved(overlay)} == set(KINDS.split())


def test_every_yaml_file_of_the_project_is_of_a_kind_that_a_test_holds_to_its_schema():
    """By folder; see the modules that are named."""
    listed = subprocess.run(
        ["git", "ls-files", "*.yaml", "*.yml"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = set(listed.stdout.split()) or pytest.skip("this is no checkout")
    held = {
        "test_cluster_files.py": r"cluster\.yaml|cluster/[a-z_]+\.yaml",
        "this one": r"cluster/kubernetes/(base|overlays/[a-z]+)/[a-z]+\.yaml|cluster/kubernetes/train\.yaml",
        "test_monitoring.py": r"cluster/monitoring/(grafana/[a-z]+/)?[a-z_]+\.yml",
        "test_house.py": r"jobs/configs/.+\.yaml|jobs/demo/[a-z]+\.yaml|serve_configs/[a-z]+\.yaml",
        "test_optimize.py, test_estimate_plan.py": r"llamafarm_ray/(serving/optimize|training/estimate)/devices\.yaml",
    }
    assert {file for file in files if not any(re.fullmatch(pattern, file) for pattern in held.values())} == set()
    in_base = {path.name for path in (KUBERNETES / "base").glob("*.yaml")} - {"kustomization.yaml"}
    assert in_base == set(yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())["resources"])


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("NetworkPolicy", lambda one: one["spec"]["ingress"][0].update(port=[])),
        ("PodDisruptionBudget", lambda one: one["spec"].update(maxUnavailable="x")),
        ("PodMonitor", lambda one: one["spec"]["podMetricsEndpoints"][0].update(interval="15")),
        ("CronJob", lambda one: one["spec"]["jobTemplate"]["spec"]["template"]["spec"].update(restart="Never")),
        ("ConfigMap", lambda one: one["data"].update(RAY_worker_niceness=0)),
    ],
)
def test_a_manifest_with_a_mistake_is_refused(kind, change):
    manifest = json.loads(json.dumps(of_kind("dev", kind)[0]))
    change(manifest)
    with pytest.raises(jsonschema.ValidationError):
        kubernetes_schemas.validate(manifest)


def test_the_schemas_of_kubernetes_know_more_of_a_kind_than_ours(monkeypatch):
    manifest = json.loads(json.dumps(of_kind("dev", "CronJob")[0]))
    manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limit": {"cpu": "1"}}
    monkeypatch.setitem(kubernetes_schemas._KINDS, "CronJob", lambda: ("batch/v1", {"spec": {}}))
    with pytest.raises(jsonschema.ValidationError, match="limit"):
        kubernetes_schemas.validate(manifest)


def test_the_training_job_is_what_kuberay_takes_and_names_the_cluster_of_the_base():
    job = yaml.safe_load((KUBERNETES / "train.yaml").read_text(encoding="utf-8"))
    validate(job)
    (cluster,) = of_kind("production", "RayCluster")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert "shutdownAfterJobFinishes" not in job["spec"], "the operator refuses it for a cluster that is shared"
    assert "ttlSecondsAfterFinished" not in job["spec"], "the operator refuses it without shutdownAfterJobFinishes"
    check_confined(job["spec"]["submitterPodTemplate"]["spec"])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_itself_resolves_the_overlays_alike(overlay):
    command = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def known(manifests):
        return {(one["kind"], one["metadata"]["name"]): one for one in json.loads(json.dumps(manifests))}

    assert known(list(yaml.safe_load_all(made))) == known(resolved(overlay))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_resource_is_in_the_overlays_namespace_with_its_image_and_home(overlay):
    assert {one["metadata"]["namespace"] for one in resolved(overlay)} == {f"llamafarm-{overlay}"}
    images = {container["image"] for pod in pods(overlay) for container in pod["containers"]}
    (image,) = images
    assert image.startswith("registry.example.com/llamafarm")
    assert "latest" not in image
    (environment,) = of_kind(overlay, "ConfigMap")
    assert environment["data"]["LLAMAFARM_HOME"] == f"s3://my-bucket/llamafarm-{overlay}"
    assert environment["data"]["EVALUATION_DATASET"] == f"s3://my-bucket/datasets-{overlay}/qa"
    (evaluation,) = of_kind(overlay, "CronJob")
    assert "my-bucket" not in json.dumps(evaluation), "an overlay would evaluate on the rows of another"


def test_pods_have_the_environment_of_serve_env():
    lines = (ROOT / "serve_configs" / "serve.env").read_text(encoding="utf-8").splitlines()
    expected = dict(line.split("=") for line in lines if not line.startswith("#"))
    (environment,) = of_kind("dev", "ConfigMap")
    assert expected.items() <= environment["data"].items()
    assert set(environment["data"]) - set(expected) == {
        "EVALUATION_DATASET",
        "HOME",
        "LLAMAFARM_CACHE",
        "LLAMAFARM_HOME",
    }
    for pod in pods("dev"):
        for container in pod["containers"]:
            assert {"configMapRef": {"name": "llamafarm-environment"}} in container["envFrom"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_are_confined(overlay):
    for pod in pods(overlay):
        check_confined(pod)
    for spec in clusters(overlay).values():
        for worker in spec["workerGroupSpecs"]:
            assert worker["template"]["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rays_dashboard_asks_for_a_token_and_its_state_outlives_the_head(overlay):
    for spec in clusters(overlay).values():
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["gcsFaultToleranceOptions"]["backend"] == "rocksdb"
        head = spec["headGroupSpec"]
        assert head["rayStartParams"]["num-cpus"] == "0"
        (container,) = head["template"]["spec"]["containers"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_endpoint_asks_for_keys_and_its_application_fits_its_pods(overlay):
    described = applications(overlay)
    (application,) = described["applications"]
    deployment = parse_config(application["args"]).deployment
    assert deployment.require_key is True
    assert described["http_options"] == {"host": "0.0.0.0", "port": 8000}  # noqa: S104
    (group,) = clusters(overlay)["serve"]["workerGroupSpecs"]
    scaling = deployment.auto_scaling
    fewest, most = (scaling.min_replicas, scaling.max_replicas) if scaling else (deployment.replicas,) * 2
    assert (group["minReplicas"], group["maxReplicas"]) == (fewest, most)
    (container,) = group["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert float(limits["cpu"]) == deployment.resources.cpu
    assert limits["memory"] == deployment.resources.memory.spelling
    assert ("nvidia.com/gpu" in limits) == (deployment.resources.gpu is not None)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_answers_under_way_may_end(overlay):
    (service,) = of_kind(overlay, "RayService")
    assert service["spec"]["rayClusterDeletionDelaySeconds"] >= DEREGISTRATION_S + DRAIN_S
    for group in groups(clusters(overlay)["serve"]):
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] >= DEREGISTRATION_S + DRAIN_S


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_policies_budgets_and_monitors_find_the_pods(overlay):
    part = {"app.kubernetes.io/part-of": "llamafarm"}
    for spec in clusters(overlay).values():
        for group in groups(spec):
            assert part.items() <= group["template"]["metadata"]["labels"].items()
            ports = {port["name"] for port in group["template"]["spec"]["containers"][0]["ports"]}
            assert "metrics" in ports
    (policy,), (monitor,) = of_kind(overlay, "NetworkPolicy"), of_kind(overlay, "PodMonitor")
    assert policy["spec"]["podSelector"]["matchLabels"] == part
    assert monitor["spec"]["selector"]["matchLabels"] == part
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"
    open_to_all = [rule["ports"] for rule in policy["spec"]["ingress"] if "from" not in rule]
    assert open_to_all == [[{"port": 8000, "protocol": "TCP"}]], "only the endpoint, which asks for keys"
    names = {group["groupName"] for group in clusters(overlay)["serve"]["workerGroupSpecs"]}
    heads = {spec["headGroupSpec"]["template"]["metadata"]["labels"][COMPONENT] for spec in clusters(overlay).values()}
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        wanted = budget["spec"]["selector"]["matchLabels"]
        assert wanted.get(COMPONENT) in heads or {wanted["ray.io/group"]} == names
        assert set(budget["spec"]) == {"minAvailable", "selector"}, "KubeRay's resources have no scale to count from"
        assert type(budget["spec"]["minAvailable"]) is int
    assert len(heads) == 2


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_nightly_evaluation_is_a_verb_that_exists_on_the_cluster_of_the_base(overlay):
    from typer.main import get_command

    from llamafarm_ray.cli.main import app

    (cron,), (cluster,) = of_kind(overlay, "CronJob"), of_kind(overlay, "RayCluster")
    (container,) = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    verb = get_command(app)
    for word in container["command"][1:]:
        verb = verb.commands[word]
    known = {name for parameter in verb.params for name in parameter.opts}
    given = dict(argument.split("=", 1) for argument in container["args"])
    assert set(given) <= known
    assert given["--address"] == f"http://{cluster['metadata']['name']}-head-svc:8265"
    secrets = [one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one]
    assert secrets == [{"name": cluster["metadata"]["name"], "key": "auth_token"}]
    assert cron["spec"].get("suspend", False) is (overlay == "dev")
