"""The real model of 135 million parameters on real questions: its score is the one that lm-eval gives it."""

import os
from pathlib import Path

import pytest
from mmlu_questions import questions, write_questions

lm_eval = pytest.importorskip("lm_eval", reason="the extra `benchmarks` is not installed")

pytestmark = pytest.mark.long

SUBJECTS = os.environ.get("LLAMAFARM_TEST_SUBJECTS", "").split(",") if "LLAMAFARM_TEST_SUBJECTS" in os.environ else None
"""Subjects to ask instead of all 57."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_questions(tmp_path_factory.mktemp("questions") / "mmlu")


@pytest.fixture(scope="module")
def base(tmp_path_factory, request):
    if "LLAMAFARM_TEST_REAL_MODEL" in os.environ:
        return Path(os.environ["LLAMAFARM_TEST_REAL_MODEL"])
    from llamafarm_ray.registry import RegistryService
    from llamafarm_ray.storage import Location
    from llamafarm_ray.workflows.models.convert import convert

    folder = tmp_path_factory.mktemp("real")
    registry = RegistryService(Location(folder / "home"), principal="ann")
    return convert(registry, str(request.getfixturevalue("wheel")), folder / "base", to="safetensors").path


def test_all_questions_of_the_wheel_are_read():
    found = questions()
    assert len(found) == 57
    assert sum(map(len, found.values())) == 281  # four of the 285 have no letter, five choices, or are missing


NAMES = tuple(f"mmlu_{subject}" for subject in SUBJECTS) if SUBJECTS else ("mmlu",)


@pytest.fixture(scope="module")
def lm_evals(base, data):
    """The scores that lm-eval gives the model by itself, with transformers."""
    from lm_eval.models.huggingface import HFLM

    from llamafarm_ray.evaluation.benchmarks.tasks import load_tasks

    lm = HFLM(pretrained=str(base), dtype="float32", device="cpu", batch_size=8)
    tasks = list(load_tasks(NAMES, data).values())
    found = lm_eval.simple_evaluate(model=lm, tasks=tasks, num_fewshot=0, bootstrap_iters=0, log_samples=False)
    return {name: found["results"][name]["acc,none"] for name in NAMES}


def scores(data, asked):
    from llamafarm_ray.evaluation.benchmarks.run import BenchmarkPlan, run_benchmarks
    from llamafarm_ray.evaluation.benchmarks.workers import LocalWorkers

    found = run_benchmarks(BenchmarkPlan(NAMES, data, num_fewshot=0), asked, LocalWorkers())
    print({name: (one.metrics["accuracy"], one.num_examples) for name, one in found.items()})  # noqa: T201
    return {name: one.metrics["accuracy"] for name, one in found.items()}


@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_the_real_models_mmlu_score_is_lm_evals_own(base, data, lm_evals, backend):
    from llamafarm_ray.evaluation.benchmarks.asked import AskedModel

    assert scores(data, AskedModel(backend, {"base": base, "adapter": None}, "w")) == lm_evals


def test_the_deployed_endpoints_mmlu_score_is_lm_evals_own(base, data, lm_evals, ray_cluster, tmp_path):
    from llamafarm_ray.clusters.ports import free_port
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.evaluation.benchmarks.asked import AskedModel
    from llamafarm_ray.evaluation.engines.served import Endpoint
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.undeploy import undeploy

    registry = open_registry(str(tmp_path / "home"))
    config = parse_config({"base_model": str(base), "deployment": {"port": free_port()}})
    deployed = deploy(config, registry, ray_cluster)
    try:
        endpoint = Endpoint(deployed.url, registry.refresh().deployments["llamafarm"].base_model)
        asked = AskedModel("endpoint", {"endpoint": endpoint, "folder": base}, "w", keeps=False)
        assert scores(data, asked) == lm_evals
    finally:
        undeploy(registry, ray_cluster)
