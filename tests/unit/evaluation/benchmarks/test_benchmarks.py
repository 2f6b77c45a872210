"""Benchmarks by lm-eval, on local files with its own definitions, against its own evaluation."""

import json

import pytest
from adapters import make_adapter
from engine_server import serving
from gguf_files import write_gguf

from llamafarm_ray.errors import ClusterError, InputError
from llamafarm_ray.evaluation.benchmarks.asked import AskedModel
from llamafarm_ray.evaluation.benchmarks.compare import compare_benchmarks
from llamafarm_ray.evaluation.benchmarks.run import BenchmarkPlan, run_benchmarks
from llamafarm_ray.evaluation.benchmarks.store import ResultStore
from llamafarm_ray.evaluation.benchmarks.tasks import load_tasks
from llamafarm_ray.evaluation.benchmarks.workers import LocalWorkers
from llamafarm_ray.evaluation.engines.served import Endpoint
from llamafarm_ray.storage import Location

pytest.importorskip("lm_eval", reason="the extra `benchmarks` is not installed")

pytestmark = pytest.mark.long  # every call of lm-eval takes seconds, whatever the model's size

SUBJECTS = ("anatomy", "astronomy")


def question(number):
    return {
        "question": f"What needs water number {number}?",
        "choices": ["a llama", "a farm", "the sea", "a spider"],
        "answer": number % 4,
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mmlu")
    for offset, subject in enumerate(SUBJECTS):
        (folder / subject).mkdir()
        for split, count in (("test", 6), ("dev", 5)):
            rows = [question(7 * offset + number) for number in range(count)]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / subject / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def workers():
    return LocalWorkers()


def asked(base, weights="w", adapter=None, **options):
    return AskedModel("transformers", {"base": base, "adapter": adapter}, weights, **options)


def plan(data, *names, **options):
    return BenchmarkPlan(names or ("mmlu_anatomy",), data, **options)


def direct(base, data, subject, **options):
    """lm-eval's own evaluation of its own definition, with its data as files."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    files = {split: str(data / subject / f"{split}.jsonl") for split in ("test", "dev")}
    task = {
        "task": f"own_{subject}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"},
        "output_type": "multiple_choice",
        "description": f"The following are multiple choice questions (with answers) about {subject}.\n\n",
        "doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
        "D. {{choices[3]}}\nAnswer:",
        "doc_to_choice": ["A", "B", "C", "D"],
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    lm = HFLM(pretrained=str(base), dtype="float32", device="cpu", batch_size=1)
    return simple_evaluate(model=lm, tasks=[task], bootstrap_iters=0, **options)["results"][f"own_{subject}"][
        "acc,none"
    ]


@pytest.mark.parametrize("options", [{}, {"num_fewshot": 2}])
def test_scores_are_those_of_lm_eval_itself(base, workers, data, options):
    found = run_benchmarks(plan(data, *(f"mmlu_{one}" for one in SUBJECTS), **options), asked(base), workers)
    for subject in SUBJECTS:
        scores = found[f"mmlu_{subject}"]
        assert scores.metrics["accuracy"] == direct(base, data, subject, **options)
        assert scores.num_examples == 6


def test_the_chat_template_changes_the_prompts_as_it_does_there(base, workers, data):
    found = run_benchmarks(plan(data, chat_template=True), asked(base), workers)
    assert found["mmlu_anatomy"].metrics["accuracy"] == direct(base, data, "anatomy", apply_chat_template=True)


def test_a_stored_result_answers_for_equal_inputs_alone(base, workers, data, tmp_path, monkeypatch):
    import lm_eval

    store = ResultStore(Location(tmp_path))
    runs = []
    own = lm_eval.simple_evaluate
    monkeypatch.setattr(lm_eval, "simple_evaluate", lambda **options: runs.append(1) or own(**options))

    def run(weights="w", **options):
        return run_benchmarks(plan(data, **options), asked(base, weights), workers, store=store)["mmlu_anatomy"]

    first = run()
    again = run()
    assert again == first
    assert again.items == first.items
    assert len(first.items.metrics["accuracy"]) == 6
    assert len(runs) == 1
    run(weights="other")
    run(num_fewshot=1)
    run(chat_template=True)
    run(limit=3)
    assert len(runs) == 5
    (data / "anatomy" / "test.jsonl").write_text(json.dumps(question(99)) + "\n", encoding="utf-8")
    run()
    assert len(runs) == 6


def test_an_adapter_stands_beside_its_base(base, workers, data, tmp_path):
    adapter = make_adapter(base, tmp_path, seed=3)
    found = compare_benchmarks(
        plan(data, "mmlu_astronomy"),
        asked(base, "adapter", adapter),
        asked(base, "base", adapter, with_adapter=False),
        workers,
        model_id="bot",
        store=None,
        report=lambda *_: None,
    ).benchmarks["mmlu_astronomy"]
    assert found.baseline["accuracy"] == direct(base, data, "astronomy")
    assert found.improvement == f"{found.metrics['accuracy'] - found.baseline['accuracy']:+.2f}"
    assert (found.digests["weights"], found.digests["backend"]) == ("adapter", "transformers")
    compared = found.comparison["accuracy"]
    assert compared["difference"] == pytest.approx(found.metrics["accuracy"] - found.baseline["accuracy"])
    assert (compared["num_examples"], compared["num_clusters"]) == (6, 6)
    assert compared["num_better"] - compared["num_worse"] == round(6 * compared["difference"])


def test_a_task_about_safety_is_a_risk_with_a_method_and_an_interval(base, workers, tmp_path):
    rows = [
        {"sent_more": f"The llama number {at} is lazy.", "sent_less": f"The spider {at} is lazy.", "bias_type": "age"}
        for at in range(6)
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = compare_benchmarks(
        plan(tmp_path, "crows_pairs_english"),
        asked(base),
        None,
        workers,
        model_id="bot",
        store=None,
        report=lambda *_: None,
    )
    assert result.benchmarks == {}
    scores = result.risk["crows_pairs_english"]
    assert (next(iter(scores.metrics)), scores.num_examples) == ("pct_stereotype", 6)
    assert "pct_stereotype" in scores.intervals
    assert scores.method


class Dying(LocalWorkers):
    """Workers that die after some chunks."""

    def __init__(self, num_answered):
        super().__init__()
        self.left, self.asked = num_answered, 0

    def answers(self, model, chunks):
        for found in super().answers(model, chunks):
            if self.left == 0:
                raise ClusterError("killed")
            self.left, self.asked = self.left - 1, self.asked + 1
            yield found


def test_a_run_that_was_killed_asks_nothing_twice_and_has_the_same_scores(base, workers, tmp_path):
    (tmp_path / "data").mkdir()
    text = "".join(json.dumps(question(number)) + "\n" for number in range(70))
    for split in ("test", "dev"):
        (tmp_path / "data" / f"{split}.jsonl").write_text(text, encoding="utf-8")
    many = plan(tmp_path / "data", num_fewshot=0)
    store = ResultStore(Location(tmp_path / "home"))
    dying, going_on = Dying(2), Dying(-1)
    with pytest.raises(ClusterError, match="killed"):
        run_benchmarks(many, asked(base), dying, store=store)
    found = run_benchmarks(many, asked(base), going_on, store=store)
    assert (dying.asked, going_on.asked) == (2, 1), "chunks of 32 of the 70 questions"
    assert found == run_benchmarks(many, asked(base), workers)
    assert not list((tmp_path / "home" / "benchmark-answers").rglob("*.json")), "the result is there instead"


def test_an_endpoint_scores_as_transformers_do(base, workers, data, tmp_path):
    from llamafarm_ray.serving.engines.transformers import transformers_engine

    engine = transformers_engine("tiny", base)
    with serving(engine) as url:
        options = {"endpoint": Endpoint(url, "tiny"), "folder": base}
        for template in (False, True):
            found = run_benchmarks(
                plan(data, chat_template=template), AskedModel("endpoint", options, "w", keeps=False), workers
            )
            same = run_benchmarks(plan(data, chat_template=template), asked(base), workers)
            assert found["mmlu_anatomy"].metrics == same["mmlu_anatomy"].metrics
            assert found["mmlu_anatomy"].digests["backend"] == "endpoint"


def test_a_gguf_scores_as_the_weights_that_it_was_made_from(base, workers, data, tmp_path):
    pytest.importorskip("xllamacpp")
    file = write_gguf(base, tmp_path / "gguf" / "model.gguf")
    found = run_benchmarks(plan(data), AskedModel("gguf", {"base": file.parent, "adapter": None}, "g"), workers)
    same = run_benchmarks(plan(data), asked(base), workers)
    assert found["mmlu_anatomy"].metrics["accuracy"] == same["mmlu_anatomy"].metrics["accuracy"]
    context = ["What needs water? Answer:"]
    requests = [(context[0], " a llama"), (context[0], " the sea")]
    scored = [
        workers.answerer(model).answer("loglikelihood", requests, with_adapter=True, has_template=False)
        for model in (AskedModel("gguf", {"base": file.parent, "adapter": None}, "g"), asked(base))
    ]
    assert [one for one, _ in scored[0]] == pytest.approx([one for one, _ in scored[1]], abs=1e-2)
    assert [one for _, one in scored[0]] == [one for _, one in scored[1]]


def test_a_task_without_data_or_of_another_name_is_refused(data):
    with pytest.raises(InputError, match="no data of mmlu_marketing"):
        load_tasks(["mmlu_marketing"], data)
    with pytest.raises(InputError, match="no task 'mmlu_anatomi'"):
        load_tasks(["mmlu_anatomi"], data)
