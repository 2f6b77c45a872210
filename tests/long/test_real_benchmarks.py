"""The real model of 135 million parameters on real questions: its score is the one that lm-eval gives it."""

import json
import os
import re
from pathlib import Path

import pytest

lm_eval = pytest.importorskip("lm_eval", reason="the extra `benchmarks` is not installed")

pytestmark = pytest.mark.long

QUESTION = re.compile(r"(.*?)\n?\s*\(A\)(.*?)\(B\)(.*?)\(C\)(.*?)\(D\)(.*?)\nA: (.*)", re.DOTALL)
SUBJECTS = os.environ.get("LLAMAFARM_TEST_SUBJECTS", "").split(",") if "LLAMAFARM_TEST_SUBJECTS" in os.environ else None
"""Subjects to ask instead of all 57."""


def questions():
    """The questions in lm-eval's wheel by subject, which are MMLU's own examples: (question, choices, answer)."""
    path = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "flan_cot_fewshot" / "_cot_prompts.json"
    found = {}
    for subject, text in json.loads(path.read_text(encoding="utf-8")).items():
        for block in re.split(r"(?:^|\n)Q: ", text)[1:]:
            match = QUESTION.fullmatch(block)
            letters = re.findall(r"\(([A-D])\)", match[6]) if match else []
            if letters:
                row = {"question": match[1].strip(), "choices": [match[place].strip() for place in range(2, 6)]}
                found.setdefault(subject, []).append({**row, "answer": "ABCD".index(letters[-1])})
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mmlu")
    for subject, rows in questions().items():
        (folder / subject).mkdir()
        for split in ("test", "dev"):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / subject / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory, request):
    if "LLAMAFARM_TEST_REAL_MODEL" in os.environ:
        return Path(os.environ["LLAMAFARM_TEST_REAL_MODEL"])
    from llamafarm_ray.registry import RegistryService
    from llamafarm_ray.storage import Location
    from llamafarm_ray.workflows.convert import convert

    folder = tmp_path_factory.mktemp("real")
    registry = RegistryService(Location(folder / "home"), principal="ann")
    return convert(registry, str(request.getfixturevalue("wheel")), folder / "base", to="safetensors").path


def test_all_questions_of_the_wheel_are_read():
    found = questions()
    assert len(found) == 57
    assert sum(map(len, found.values())) == 281  # four of the 285 have no letter, five choices, or are missing


def test_the_real_models_mmlu_score_is_lm_evals_own(base, data):
    from lm_eval.models.huggingface import HFLM

    from llamafarm_ray.evaluation.benchmarks.asked import AskedModel
    from llamafarm_ray.evaluation.benchmarks.run import BenchmarkPlan, run_benchmarks
    from llamafarm_ray.evaluation.benchmarks.tasks import load_tasks
    from llamafarm_ray.evaluation.benchmarks.workers import LocalWorkers

    names = tuple(f"mmlu_{subject}" for subject in SUBJECTS) if SUBJECTS else ("mmlu",)
    asked = AskedModel("transformers", {"base": base, "adapter": None}, "w")
    ours = run_benchmarks(BenchmarkPlan(names, data, num_fewshot=0), asked, LocalWorkers())
    lm = HFLM(pretrained=str(base), dtype="float32", device="cpu", batch_size=8)
    theirs = lm_eval.simple_evaluate(
        model=lm, tasks=list(load_tasks(names, data).values()), num_fewshot=0, bootstrap_iters=0, log_samples=False
    )["results"]
    print({name: (scores.metrics["accuracy"], scores.num_examples) for name, scores in ours.items()})  # noqa: T201
    for name in names:
        assert ours[name].metrics["accuracy"] == theirs[name]["acc,none"]
