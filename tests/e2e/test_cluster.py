"""On a running cluster: a job trains and registers, `serve deploy` serves what it registered."""

import functools
import re
import shutil
import tempfile
from pathlib import Path

import httpx
import pytest
import yaml
from e2e_tools import ROOT
from patience import wait_until

from llamafarm_ray.clusters.ports import free_port
from llamafarm_ray.registry import open_registry

pytestmark = pytest.mark.timeout(900)  # the first test to run waits for the whole demo


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A home whose path no earlier run of the tests had: a job's output in `~/llamafarm-jobs` is named by it."""
    return Path(tempfile.mkdtemp(prefix="home-", dir=tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def trained(demos_base, ray_head, home):
    """README's job, on the demo's base and for a few steps."""
    done = ray_head.run(
        *["ray", "job", "submit", "--address", ray_head.dashboard, "--working-dir", ".", "--"],
        *["python", "jobs/train.py", "--config", "jobs/configs/basic_lora.yaml", "--home", str(home)],
        *["--set", f"base_model={demos_base}", "--set", "fine_tuning.training.max_steps=4"],
    )
    yield done
    for output in re.findall(r"/\S+/llamafarm-jobs/\S+?/basic-lora-\w+", done.stdout):
        shutil.rmtree(output, ignore_errors=True)


def test_a_submitted_job_trains_and_registers(trained, home):
    assert trained.returncode == 0, trained.stdout[-4000:] + trained.stderr[-4000:]
    record = open_registry(str(home)).resolve("basic-lora:1.0.0").registered
    assert record.method == "lora"
    assert record.base_digest is not None
    assert record.dataset_digest is not None


def test_a_failing_job_passes_its_exit_status_and_message_on(ray_head):
    command = ["python", "jobs/train.py", "--set", "fine_tuning.method=lorra"]
    address = ["--address", ray_head.dashboard, "--working-dir", "."]
    result = ray_head.run("ray", "job", "submit", *address, "--", *command)
    assert result.returncode != 0
    assert "lorra" in result.stdout + result.stderr


def test_serve_deploy_serves_what_was_registered(trained, demo, ray_head, home, tmp_path):
    port = free_port()
    described = yaml.safe_load((ROOT / "serve_configs" / "local.yaml").read_text(encoding="utf-8"))
    described["http_options"]["port"] = port
    described["applications"][0]["args"] |= {"base_model": str(demo.base), "home": str(home)}
    described["applications"][0]["args"]["deployment"] |= {"adapters": ["basic-lora:1.0.0"], "strategy": "canary"}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(described))
    result = ray_head.run("serve", "deploy", "--address", ray_head.dashboard, str(tmp_path / "serve.yaml"))
    assert result.returncode == 0, result.stdout + result.stderr
    body = {"model": "basic-lora", "prompt": "The tide bell", "max_tokens": 4, "temperature": 0}
    status = functools.partial(ray_head.run, "serve", "status", "--address", ray_head.dashboard)
    response = wait_until(lambda: answer(port, body), 120, lambda: status().stdout)
    assert response.headers["x-llamafarm-model"] == "basic-lora:1.0.0"
    # As after `llamafarm models deploy`: it is on record, and the first version of its model is production.
    swap = [
        *["llamafarm", "models", "swap-adapter", "--adapter", "basic-lora:1.0.0", "--target", "staging", "--home"],
        str(home),
    ]
    wait_until(lambda: open_registry(str(home)).state.deployments, 60)
    swapped = ray_head.run(*swap)
    assert "basic-lora@staging is now basic-lora:1.0.0, confirmed by the endpoint" in swapped.stdout, swapped.stderr
    assert open_registry(str(home)).resolve("basic-lora@production").ref == "basic-lora:1.0.0"
    # It is stopped from a terminal that knows the home alone.
    undeploy = ray_head.run("llamafarm", "models", "undeploy", "--home", str(home))
    assert undeploy.returncode == 0, undeploy.stdout + undeploy.stderr
    assert not open_registry(str(home)).state.deployments
    wait_until(lambda: answer(port, body) is None, 60, lambda: undeploy.stdout + status().stdout)


def answer(port, body):
    """The endpoint's answer, or None where there is none, or an error."""
    try:
        response = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=30)
    except httpx.TransportError:
        return None
    return response if response.status_code == httpx.codes.OK else None
