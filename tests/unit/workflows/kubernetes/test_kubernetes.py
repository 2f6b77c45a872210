"""The manifest for Kubernetes, against KubeRay's schema, Ray's own readers of it, and our configuration.

``data/rayservice.v1.schema.json`` is the OpenAPI schema of ``ray.io/v1`` in KubeRay's custom resource definition
(https://github.com/ray-project/kuberay, Apache-2.0).
"""

import importlib.metadata
import json
import re
import subprocess
import uuid
from pathlib import Path

import jsonschema
import pytest
import yaml
from kuberay import strict
from tiny_adapters import write_adapter, write_base

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import ConflictError, InputError, NotFoundError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.serving.application import arguments
from llamafarm_ray.serving.deployment.autoscaling import DEREGISTRATION_S, DRAIN_S
from llamafarm_ray.storage import Location
from llamafarm_ray.workflows.kubernetes import as_yaml, ray_service
from llamafarm_ray.workflows.versions.register import Registration, register

ROOT = Path(__file__).parents[4]
SCHEMA = Path(__file__).parents[1] / "data" / "rayservice.v1.schema.json"
IMAGE = "registry.example.com/llamafarm:1.0"
DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@pytest.fixture
def registry(tmp_path):
    """A home that is no folder, with one principal."""
    home = Location(f"memory://{uuid.uuid4().hex}/home")
    token = RegistryService(home, cache=tmp_path / "cache").add_principal("root", {"*": Role.ADMIN})
    return RegistryService(home, token=token, cache=tmp_path / "cache")


@pytest.fixture
def folders(tmp_path):
    """A base model and an adapter on it."""
    base = write_base(tmp_path / "Support_Base")
    return base, write_adapter(tmp_path / "bot", base)


@pytest.fixture
def registered(registry, folders):
    """The registry with ``Support_Base:1.0.0``."""
    register(registry, Registration(folders[0]))
    return registry


def config(**deployment):
    wanted = {"target": "kubernetes", "image": IMAGE, **deployment}
    return parse_config({"base_model": "Support_Base", "deployment": wanted})


VALIDATOR = jsonschema.Draft202012Validator(strict(json.loads(SCHEMA.read_text(encoding="utf-8"))))


def only_worker_group(manifest):
    (group,) = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return group


def pods(manifest):
    cluster = manifest["spec"]["rayClusterConfig"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def resources_of(manifest):
    (worker,) = only_worker_group(manifest)["template"]["spec"]["containers"]
    assert worker["resources"]["requests"] == worker["resources"]["limits"]
    return worker["resources"]["limits"]


def application_of(manifest):
    (application,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    return application


DEPLOYMENTS = [
    {},
    {"replicas": 2, "resources": {"gpu": "1x_a100", "memory": "32Gi"}},
    {
        "replicas": 0,
        "auto_scaling": {"min_replicas": 0, "max_replicas": 3},
        "resources": {"gpu": "1x_a100", "cpu": 0.5},
    },
    {"engine_kwargs": {"tensor_parallel_size": 4, "dtype": "1e3"}, "resources": {"gpu": 1}, "port": 9000},
    {"strategy": "ab", "allowed_origins": ["https://a.example"], "limits": {"queue_timeout_s": 1e-06}},
]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=range(len(DEPLOYMENTS)))
def test_it_is_what_kuberay_takes_and_its_application_is_the_configuration(registered, deployment):
    from ray.serve.schema import ServeDeploySchema

    wanted = config(**deployment)
    manifest = ray_service(wanted, registered)
    VALIDATOR.validate(manifest)
    assert yaml.safe_load(as_yaml(manifest)) == json.loads(json.dumps(manifest)) == manifest
    assert "&id" not in as_yaml(manifest)
    served = ServeDeploySchema.model_validate(yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    assert (served.http_options.host, served.http_options.port) == ("0.0.0.0", wanted.deployment.port)  # noqa: S104
    (application,) = served.applications
    assert application.import_path == "llamafarm_ray.serving.application:build"
    read = parse_config(application.args)
    assert (read.home, read.base_model) == (registered.home.uri, "Support_Base:1.0.0")
    for_pods = {"host": "0.0.0.0", "require_key": True}  # noqa: S104
    assert read.deployment == wanted.deployment.model_copy(update=for_pods)


def test_the_schema_as_it_is_checked_notices_a_misspelt_field(registered):
    manifest = ray_service(config(), registered)
    pods(manifest)[1]["containers"][0]["enviroment"] = []
    with pytest.raises(jsonschema.ValidationError, match="enviroment"):
        VALIDATOR.validate(manifest)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=range(len(DEPLOYMENTS)))
def test_what_an_application_is_built_from_means_the_same_configuration(deployment):
    wanted = config(**deployment)
    read = parse_config(arguments(wanted, "s3://bucket/home"))
    assert (read.deployment, read.base_model, read.home) == (wanted.deployment, "Support_Base", "s3://bucket/home")


@pytest.mark.parametrize(
    ("deployment", "resources"),
    [
        ({}, {"cpu": "1"}),
        ({"resources": {"cpu": 1.5, "memory": "32Gi"}}, {"cpu": "1.5", "memory": "32Gi"}),
        ({"resources": {"memory": "2GB"}}, {"cpu": "1", "memory": "2000000000"}),
        ({"resources": {"gpu": "1x_a100"}}, {"cpu": "1", "nvidia.com/gpu": "1"}),
        ({"resources": {"gpu": 0.5, "cpu": 4}}, {"cpu": "4", "nvidia.com/gpu": "1"}),
        ({"resources": {"gpu": 2, "cpu": 4}}, {"cpu": "8", "nvidia.com/gpu": "2"}),
        (
            {"resources": {"gpu": 1, "cpu": 4}, "engine_kwargs": {"tensor_parallel_size": 4}},
            {"cpu": "16", "nvidia.com/gpu": "4"},
        ),
        (
            {"resources": {"gpu": 2}, "engine_kwargs": {"pipeline_parallel_size": 2}},
            {"cpu": "4", "nvidia.com/gpu": "4"},
        ),
    ],
)
def test_a_pod_has_what_one_replica_takes(registered, deployment, resources):
    manifest = ray_service(config(**deployment), registered)
    assert resources_of(manifest) == resources
    has_gpu = "nvidia.com/gpu" in resources
    assert ("tolerations" in pods(manifest)[1]) == has_gpu


def test_rays_autoscaler_reads_what_the_application_asks_ray_for(registered):
    """A replica's bundles, as vLLM's are in `build`, fit into one pod and not into less."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _get_ray_resources_from_group_spec

    from llamafarm_ray.registry import BaseModel
    from llamafarm_ray.serving.application import _llm_config
    from llamafarm_ray.serving.deployment.vllm_replica import _bundles
    from llamafarm_ray.types import Digest

    scaling = {"min_replicas": 1, "max_replicas": 4}
    needs = {"gpu": "1x_a100", "cpu": 3, "memory": "32Gi"}
    wanted = config(resources=needs, auto_scaling=scaling, engine_kwargs={"tensor_parallel_size": 2})
    manifest = ray_service(wanted, registered)
    offered = _get_ray_resources_from_group_spec(only_worker_group(manifest), is_head=False)
    assert offered == {"CPU": 6, "GPU": 2, "memory": 32 * 2**30, "accelerator_type:A100": 1}
    bundles = _bundles(_llm_config(wanted, BaseModel("b", "b", Path("b"), Digest.of(b""))))
    asked = {name: sum(bundle.get(name, 0) for bundle in bundles) for name in {*bundles[0], *bundles[1]}}
    assert asked.pop("accelerator_type:A100") <= 1
    assert asked == {"CPU": 6, "GPU": 2, "memory": 32 * 2**30}
    head = manifest["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert _get_ray_resources_from_group_spec(head, is_head=True)["CPU"] == 0


def test_the_workers_follow_the_replicas(registered):
    def sizes(**deployment):
        manifest = ray_service(config(**deployment), registered)
        group = only_worker_group(manifest)
        scales = manifest["spec"]["rayClusterConfig"].get("enableInTreeAutoscaling", False)
        return group["minReplicas"], group["replicas"], group["maxReplicas"], scales

    assert sizes(replicas=2) == (2, 2, 2, False)
    assert sizes(auto_scaling={"min_replicas": 3, "max_replicas": 3}) == (3, 3, 3, False)
    assert sizes(auto_scaling={"min_replicas": 1, "max_replicas": 10}) == (1, 1, 10, True)
    assert sizes(replicas=0, auto_scaling={"min_replicas": 0, "max_replicas": 4}) == (0, 0, 4, True)


def test_every_pod_has_the_environment_the_image_and_time_to_end(registered):
    lines = (ROOT / "serve_configs" / "serve.env").read_text(encoding="utf-8").splitlines()
    expected = dict(line.split("=") for line in lines if not line.startswith("#"))
    manifest = ray_service(config(), registered)
    for pod in pods(manifest):
        assert pod["terminationGracePeriodSeconds"] > DEREGISTRATION_S + DRAIN_S
        assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 1000)
        for container in pod["containers"]:
            env = {one["name"]: one["value"] for one in container["env"]}
            assert env.pop("LLAMAFARM_HOME") == registered.home.uri
            written = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert written == {env.pop("LLAMAFARM_CACHE"), env.pop("HOME"), "/tmp"}  # noqa: S108
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert env == (expected if container in pod["containers"] else {})
            assert container["image"] == IMAGE
            assert container["envFrom"] == [{"secretRef": {"name": "llamafarm", "optional": True}}]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert manifest["spec"]["rayClusterDeletionDelaySeconds"] > DEREGISTRATION_S + DRAIN_S
    assert manifest["spec"]["rayClusterConfig"]["rayVersion"] == importlib.metadata.version("ray")


def test_ray_is_started_with_our_haproxy_wherever_the_image_has_it(registered, tmp_path):
    """As KubeRay does it: the container's command, `&&`, and then Ray."""
    program = tmp_path / "opt" / "llamafarm-haproxy"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for pod in pods(ray_service(config(), registered)):
        script = " ".join(pod["containers"][0]["command"]) + " && echo $RAY_SERVE_HAPROXY_BINARY_PATH"

        def started(path, script=script):
            command = ["/bin/bash", "-c", "--", script]
            return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True).stdout

        assert started(str(program.parent)) == f"{program}\n"
        assert started("/nowhere") == "\n"  # Ray takes the one that comes with it


def test_the_folder_of_an_adapter_becomes_a_version_and_brings_its_registered_base(registered, folders):
    wanted = parse_config({"deployment": {"target": "kubernetes", "image": IMAGE}})
    manifest = ray_service(wanted, registered, str(folders[1]))
    args = application_of(manifest)["args"]
    assert (args["base_model"], args["deployment"]["adapters"]) == ("Support_Base:1.0.0", ["bot:1.0.0"])
    assert manifest["metadata"]["name"] == "llamafarm-support-base"
    assert manifest["metadata"]["labels"]["app.kubernetes.io/version"] == "bot-v1.0.0"
    folders[0].rename(folders[0].with_name("elsewhere"))  # as on a machine that the adapter was not trained on
    assert ray_service(wanted, registered, "bot:1.0.0") == manifest


def test_another_adapter_changes_the_application_and_not_the_cluster(registered, folders):
    """KubeRay makes a new cluster where pods change."""
    before = ray_service(config(), registered)
    register(registered, Registration(folders[1]))
    after = ray_service(config(adapters=["bot"]), registered)
    assert after["spec"]["serveConfigV2"] != before["spec"]["serveConfigV2"]
    assert after["spec"]["rayClusterConfig"] == before["spec"]["rayClusterConfig"]
    assert after["metadata"]["name"] == before["metadata"]["name"]


@pytest.mark.parametrize("name", ["custom-model", "medical_QA.v2", "9lives", "a" * 96, "a" * 90 + "-" + "b"])
def test_names_are_valid_and_stay_different(registered, name):
    wanted = parse_config({"name": name, "base_model": "Support_Base", "deployment": {"image": IMAGE}})
    metadata = ray_service(wanted, registered)["metadata"]
    assert DNS_LABEL.fullmatch(metadata["name"])
    assert len(metadata["name"]) <= 47
    assert all(LABEL_VALUE.fullmatch(value) for value in metadata["labels"].values())
    other = wanted.model_copy(update={"name": f"{name[:-1]}x"})
    assert ray_service(other, registered)["metadata"]["name"] != metadata["name"]


def test_keys_are_asked_for_unless_they_are_said_to_be_unwanted(registered, tmp_path):
    assert application_of(ray_service(config(), registered))["args"]["deployment"]["require_key"] is True
    everybody = ray_service(config(require_key=False), registered)
    assert application_of(everybody)["args"]["deployment"]["require_key"] is False
    nobody = RegistryService(Location(f"memory://{uuid.uuid4().hex}/home"), cache=tmp_path / "other")
    with pytest.raises(InputError, match="open to the network, and the registry has no principals"):
        ray_service(config(), nobody)


def test_what_pods_could_not_use_is_refused(registered, folders, tmp_path):
    with pytest.raises(InputError, match=r"deployment\.image is not set") as error:
        ray_service(config(image=None), registered)
    assert "--set deployment.image=registry" in error.value.hint
    local = RegistryService(Location(tmp_path / "home"))
    with pytest.raises(InputError, match="is a folder of this machine, which pods can't read") as error:
        ray_service(config(), local, str(folders[1]))
    assert "--home s3://" in error.value.hint
    assert len(local.refresh().models) == 0
    (folders[0] / "notes.txt").write_text("another model by now")
    with pytest.raises(InputError, match="is no registered version in memory://") as error:
        ray_service(config(), registered, str(folders[0]))
    assert "llamafarm models import" in error.value.hint
    with pytest.raises(InputError, match=r"'meta-llama/Llama-3\.1-8B' is no registered version"):
        ray_service(config().model_copy(update={"base_model": "meta-llama/Llama-3.1-8B"}), registered)
    with pytest.raises(InputError, match="base_model is not set"):
        ray_service(config().model_copy(update={"base_model": None}), registered)
    with pytest.raises(NotFoundError, match="nope"):
        ray_service(config(adapters=["nope"]), registered)
    registered.retire("Support_Base:1.0.0", "old")
    with pytest.raises(ConflictError, match="retired"):
        ray_service(config(), registered)
