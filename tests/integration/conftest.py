"""One deployment for all serving tests: a tiny base and adapters of random weights, behind the real stack.

Two processes run the tests, each with a Ray of its own. One of them has the deployment, and with it all files that use
it; the other files go to whichever process is free.
"""

import dataclasses
from pathlib import Path

import httpx
import pytest
from adapters import greedy, make_adapter
from fpdf import FPDF
from otlp import Collector, collecting
from served_answers import PROMPT, whole_letters
from tiny_model import make_tiny_model
from xdist.scheduler import LoadScopeScheduling

SERVED = {
    *("test_choosing", "test_clients", "test_serving", "test_serving_adapters", "test_serving_clients"),
    *("test_serving_engine", "test_serving_hostile", "test_serving_operations", "test_serving_refusals"),
    *("test_serving_rollouts", "test_vllm_vectors"),
}
"""Files that use the deployment."""


class OneDeployment(LoadScopeScheduling):
    """Gives each file to one process, and all files of the deployment to the same one."""

    def _split_scope(self, nodeid):
        file = nodeid.split("::", 1)[0]
        return "served" if Path(file).stem in SERVED else file


def pytest_xdist_make_scheduler(config, log):
    return OneDeployment(config, log)


@dataclasses.dataclass
class Served:
    """A running deployment and what is behind it."""

    url: str
    root: str
    base: Path
    adapters: dict[str, Path]
    registry: object
    collector: Collector

    def complete(self, model, prompt="The capital of France", num_tokens=12, headers_sent=None, **options):
        body = {"model": model, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0, **options}
        return httpx.post(f"{self.url}/completions", json=body, headers=headers_sent, timeout=60)


@pytest.fixture(scope="session")
def served(ray_cluster, tmp_path_factory, request):
    """``bot`` has versions 1.0.0 (production), 1.1.0 and 1.2.0; 1.2.0 is asked for by one test only."""
    here = [item for item in request.session.items if item.path.parent == Path(__file__).parent]
    files = {item.path.stem for item in here if "served" in item.fixturenames}
    assert files <= SERVED, f"{files - SERVED} are missing among the files that use the deployment"
    from llamafarm_ray.clusters.ports import free_port
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.undeploy import undeploy
    from llamafarm_ray.workflows.versions.register import Registration, register

    folder = tmp_path_factory.mktemp("served")
    base = make_tiny_model(folder / "tiny", hidden_size=128)
    registry = open_registry(str(folder / "home"))
    adapters = {}
    for number, version in enumerate(("1.0.0", "1.1.0", "1.2.0")):
        adapter = make_adapter(base, folder / f"adapter-{number}", seed=number + 1)
        record = register(registry, Registration(adapter, name="bot", alias="production" if number == 0 else None))
        assert record.ref == f"bot:{version}"
        adapters[record.ref] = adapter
    tools = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    options = {"port": free_port(), "max_lora_rank": 16, "max_loras": 2, "adapters": ["bot@production"]}
    options["engine_kwargs"] = tools
    # One replica, with the router that there is where there may be more.
    options["auto_scaling"] = {"max_replicas": 2, "target_ongoing_requests": 1000}
    with collecting() as collector:
        config = {"base_model": str(base), "deployment": {**options, "otlp_traces_endpoint": collector.url}}
        deployment = deploy(parse_config(config), registry, ray_cluster)
        yield Served(deployment.url, deployment.url.removesuffix("/v1"), base, adapters, registry, collector)
        undeploy(registry, ray_cluster)


@pytest.fixture(scope="session")
def oracle(served):
    """Return the answer of each version, computed by plain peft."""
    folders = {"tiny": None, **served.adapters}
    return {ref: whole_letters(greedy(served.base, folder, PROMPT, 12)) for ref, folder in folders.items()}


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(10):
        text = f"The house {number} opens at {number}:30. A day in house {number} costs {number + 5} euros."
        (folder / f"house-{number}.md").write_text(f"# House {number}\n\n{text}\n")
    (folder / "copy.txt").write_text("The house 3 opens at 3:30.")
    document = FPDF()
    document.add_page()
    document.set_font("helvetica", size=11)
    document.cell(0, 8, "The pool opens at 9:15.")
    document.output(str(folder / "pool.pdf"))
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 no more")
    (folder / "notes.xyz").write_text("ignored")
    return folder
