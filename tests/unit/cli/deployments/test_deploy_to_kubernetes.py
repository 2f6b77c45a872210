"""`llamafarm models deploy --target kubernetes`: a manifest on standard output, for `kubectl apply -f -`."""

import json

import pytest
import yaml
from s3 import bucket, s3_server  # noqa: F401  (fixtures)

DEPLOY = ["models", "deploy", "--model", "./trained_models/lora_v1", "--target", "kubernetes", "--replicas", "2"]
IMAGE = ["--set", "deployment.image=registry.example.com/llamafarm:1.0"]


@pytest.fixture
def home(llamafarm, folders, bucket, monkeypatch):  # noqa: F811
    """A home in a bucket, with the base model of ``./trained_models/lora_v1`` and a principal."""
    home = f"{bucket}/llamafarm"
    monkeypatch.setenv("LLAMAFARM_HOME", home)
    monkeypatch.setenv("LLAMAFARM_CACHE", str(folders / "cache"))
    llamafarm.text("models", "import", "base")
    monkeypatch.setenv(
        "LLAMAFARM_TOKEN", llamafarm.json("registry", "principal", "add", "root", "--role", "admin")["token"]
    )
    (folders / "trained_models").mkdir()
    (folders / "v1").rename(folders / "trained_models" / "lora_v1")
    return home


@pytest.mark.s3
def test_the_manifest_is_all_that_is_printed_and_says_what_was_asked_for(llamafarm, home):
    status, out, err = llamafarm.run(*DEPLOY, *IMAGE)
    assert (status, err) == (0, "")
    manifest = yaml.safe_load(out)
    assert (manifest["kind"], manifest["metadata"]["name"]) == ("RayService", "llamafarm-base")
    assert manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replicas"] == 2
    (application,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    assert application["args"] == {
        "home": home,
        "base_model": "base:1.0.0",
        "deployment": {
            "target": "kubernetes",
            "image": "registry.example.com/llamafarm:1.0",
            "host": "0.0.0.0",  # noqa: S104
            "replicas": 2,
            "adapters": ["lora_v1:1.0.0"],
            "require_key": True,
        },
    }
    assert llamafarm.json(*DEPLOY, *IMAGE) == manifest
    assert json.loads(llamafarm.text(*DEPLOY, "--dry-run"))["deployment"]["target"] == "kubernetes"


@pytest.mark.s3
def test_an_error_leaves_standard_output_empty(llamafarm, home):
    status, out, err = llamafarm.run(*DEPLOY)
    assert (status, out) == (2, "")
    assert "deployment.image is not set" in err
