"""Benchmarks without lm-eval: its absence, local data, the key of a stored result, and the prompts' first token."""

import importlib.util
import json
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.evaluation.benchmarks.asked import Chunk
from llamafarm_ray.evaluation.benchmarks.digests import Inputs, digest_of
from llamafarm_ray.evaluation.benchmarks.prefix import fix_prefix, wants_prefix
from llamafarm_ray.evaluation.benchmarks.scores import scores_of
from llamafarm_ray.evaluation.benchmarks.store import ResultStore
from llamafarm_ray.evaluation.benchmarks.tasks import check_installed, local_dataset
from llamafarm_ray.evaluation.item_scores import ItemScores
from llamafarm_ray.evaluation.result import BenchmarkScores
from llamafarm_ray.storage import Location

SCORES = BenchmarkScores({"accuracy": 0.5}, num_examples=2)
INPUTS = Inputs("sha256:w", "sha256:d", "sha256:c", "", "sha256:s", "transformers")


def test_without_lm_eval_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedError, match=r"pip install 'llamafarm_ray\[benchmarks\]'"):
        check_installed()


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("place", ["mmlu_anatomy", "anatomy", "mmlu/anatomy"])
def test_data_is_found_by_task_or_by_the_hubs_names(tmp_path, monkeypatch, place):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    write(tmp_path / place / "test.jsonl", {"question": "a"}, {"question": "b"})
    write(tmp_path / place / "dev.jsonl", {"question": "c"})
    found = local_dataset(tmp_path, "cais/mmlu", "anatomy", "mmlu_anatomy", is_one=False)
    assert {split: list(rows["question"]) for split, rows in found.items()} == {"test": ["a", "b"], "dev": ["c"]}


def test_the_folder_itself_is_the_data_of_one_task_alone(tmp_path):
    write(tmp_path / "test.jsonl", {"question": "a"})
    assert len(local_dataset(tmp_path, "cais/mmlu", "anatomy", "mmlu_anatomy", is_one=True)["test"]) == 1
    with pytest.raises(InputError, match="no data of mmlu_anatomy"):  # 57 subjects would get the same questions
        local_dataset(tmp_path, "cais/mmlu", "anatomy", "mmlu_anatomy", is_one=False)


def test_a_result_is_found_by_all_that_it_depends_on(tmp_path):
    store = ResultStore(Location(tmp_path))
    assert store.find(INPUTS) is None
    items = ItemScores({"accuracy": {"a:0": 1.0, "a:1": 0.0}}, {"a:0": "d1"}, ("accuracy",))
    store.keep(INPUTS, replace(SCORES, items=items))
    assert store.find(INPUTS) == SCORES
    assert store.find(INPUTS).items == items
    for field in fields(Inputs):  # weights, data, code, template, settings, backend
        assert store.find(replace(INPUTS, **{field.name: "sha256:other"})) is None


def test_a_damaged_result_is_none(tmp_path):
    store = ResultStore(Location(tmp_path))
    store.keep(INPUTS, SCORES)
    (file,) = (tmp_path / "benchmarks").iterdir()
    stored = json.loads(file.read_text(encoding="utf-8"))
    others = [{**stored, "inputs": {}}, {**stored, "items": 1}, {**stored, "scores": {"accuracy": "high"}}]
    without_items = {name: stored[name] for name in ("inputs", "scores")}
    for text in ("{", "[]", *map(json.dumps, [*others, without_items])):
        file.write_text(text, encoding="utf-8")
        assert store.find(INPUTS) is None


def test_digests_follow_the_value_and_not_the_order_of_its_keys():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_a_function_of_a_task_counts_by_its_code_and_not_by_its_address():
    def made(number):
        namespace = {}
        exec(f"class Given:\n    value = {number}", namespace)  # noqa: S102
        return namespace["Given"]()

    assert digest_of({"process_docs": made(1)}) == digest_of({"process_docs": made(1)})
    assert digest_of({"process_docs": write}) == digest_of({"process_docs": write})
    assert digest_of({"process_docs": write}) != digest_of({"process_docs": lm})


class Tokenizer:
    """Adds its first token (1) or not; its template writes it or not."""

    bos_token, bos_token_id = "<s>", 1

    def __init__(self, *, adds, declares=None):
        self._adds = adds
        if declares is not None:
            self.add_bos_token = declares

    def __call__(self, text):
        return {"input_ids": self.encode(text, self._adds)}

    def encode(self, text, adds):
        own = [1] if text.startswith("<s>") else []
        return [1] * bool(adds) + own + [7, 8]


def lm(tokenizer, *, template="", knows_prefix=True):
    """As lm-eval's model: a text that begins with the token gets no other, if it notices."""
    made = SimpleNamespace(add_bos_token=None)

    def encode(text):
        adds = tokenizer._adds if made.add_bos_token is None else made.add_bos_token
        return tokenizer.encode(text, adds and not (knows_prefix and text.startswith("<s>")))

    made.tok_encode = encode
    made.apply_chat_template = lambda turns: template + turns[0]["content"]
    return made


@pytest.mark.parametrize(
    ("adds", "declares", "wanted"), [(True, None, 1), (False, None, 0), (False, True, 1), (True, True, 1)]
)
@pytest.mark.parametrize("template", ["", "<s>"])
@pytest.mark.parametrize("knows_prefix", [True, False])
def test_the_first_token_is_neither_missing_nor_doubled(adds, declares, wanted, template, knows_prefix):
    tokenizer = Tokenizer(adds=adds, declares=declares)
    assert wants_prefix(tokenizer) == bool(wanted)
    for has_template in (False, True):
        made = lm(tokenizer, template=template, knows_prefix=knows_prefix)
        text = made.apply_chat_template([{"content": "Hello"}]) if has_template else "Hello"
        expected = 1 if wanted or (has_template and template) else 0
        try:
            fix_prefix(made, tokenizer, has_template=has_template)
        except InputError:
            assert (has_template, template, knows_prefix) == (True, "<s>", False)  # said, and not measured wrongly
            continue
        assert made.tok_encode(text).count(1) == expected


def test_scores_have_their_names_and_none_is_nan():
    results = {
        "results": {"mmlu": {"acc_norm,none": 0.4, "acc,none": 0.5, "acc_stderr,none": float("nan"), "alias": "mmlu"}},
        "groups": {},
        "n-samples": {"mmlu_a": {"effective": 3}, "mmlu_b": {"effective": 4}},
        "group_subtasks": {"mmlu": ["mmlu_a", "mmlu_b"]},
    }
    scores = scores_of(results, "mmlu")
    assert list(scores.metrics.items()) == [("accuracy", 0.5), ("acc_norm", 0.4)]
    assert scores.num_examples == 7
    with pytest.raises(InputError, match="no score of hellaswag"):
        scores_of(results, "hellaswag")


def test_answers_under_way_are_found_by_the_request_and_by_all_that_they_depend_on(tmp_path):
    store = ResultStore(Location(tmp_path))
    chunk = Chunk("loglikelihood", (("What?", " a"), ("What?", " b")), has_template=False)
    answers = [[-1.25, True], [-2.0, False]]
    store.chunks(INPUTS).keep(chunk, answers)
    assert store.chunks(INPUTS).find(chunk) == answers
    for other in (replace(chunk, has_template=True), replace(chunk, requests=chunk.requests[:1])):
        assert store.chunks(INPUTS).find(other) is None
    for field in fields(Inputs):
        assert store.chunks(replace(INPUTS, **{field.name: "sha256:other"})).find(chunk) is None
    store.keep(INPUTS, SCORES)
    store.chunks(INPUTS).clear()
    assert store.chunks(INPUTS).find(chunk) is None
    assert store.find(INPUTS) == SCORES


def test_damaged_answers_are_none(tmp_path):
    chunks = ResultStore(Location(tmp_path)).chunks(INPUTS)
    chunk = Chunk("generate_until", (("What?", {"until": ["\n"]}),), has_template=True)
    chunks.keep(chunk, ["a"])
    (file,) = (path for path in (tmp_path / "benchmark-answers").rglob("*.json"))
    for text in ("{", "{}"):
        file.write_text(text, encoding="utf-8")
        assert chunks.find(chunk) is None


def sample(task, number, filter_name="none", doc=None, **metrics):
    return {"doc_id": number, "doc": doc or {}, "filter": filter_name, "metrics": list(metrics), **metrics}


def report(**scores):
    samples = {
        "a": [sample("a", 0, doc={"passage": "One."}, acc=1.0, ter=3.0), sample("a", 1, acc=0.0, ter=5.0)],
        "b": [sample("b", 0, doc={"passage": "One."}, acc=True, f1=(1, 0))],
    }
    higher = {"a": {"acc": True, "ter": False}, "b": {"acc": True}}
    return {"results": {"both": scores}, "samples": samples, "higher_is_better": higher}


def test_each_question_has_a_score_where_the_benchmarks_is_their_mean():
    items = scores_of(report(**{"acc,none": 2 / 3, "ter,none": 4.0, "f1,none": 0.5}), "both").items
    assert items.metrics == {"accuracy": {"a:0": 1.0, "a:1": 0.0, "b:0": 1.0}, "ter": {"a:0": 3.0, "a:1": 5.0}}
    assert items.documents["a:0"] == items.documents["b:0"]
    assert "a:1" not in items.documents
    assert items.lower_is_better == ("ter",)
    assert ItemScores.from_dict(json.loads(json.dumps(items.to_dict()))) == items


def test_a_score_that_is_no_mean_over_the_questions_has_none():
    assert scores_of(report(**{"acc,none": 0.75}), "both").items.metrics == {}  # a mean of the tasks' means


def test_a_share_that_is_best_at_a_half_is_not_compared():
    results = report(**{"pct_stereotype,none": 0.5})
    results["samples"] = {"a": [sample("a", 0, pct_stereotype=1.0), sample("a", 1, pct_stereotype=0.0)]}
    scores = scores_of(results, "both")
    assert (scores.metrics, scores.items.metrics) == ({"pct_stereotype": 0.5}, {})


def test_scores_of_a_filter_are_its_own():
    results = report(**{"acc,strict": 1.0, "acc,none": 0.0})
    results["samples"] = {"a": [sample("a", 0, "strict", acc=1.0), sample("a", 0, "none", acc=0.0)]}
    assert scores_of(results, "both").items.metrics == {"accuracy.strict": {"a:0": 1.0}, "accuracy": {"a:0": 0.0}}


def test_models_are_paired_on_the_questions_that_both_answered():
    ours = ItemScores({"ter": {"a:0": 3.0, "a:1": 5.0, "a:2": 9.0}, "f1": {"a:0": 1.0}}, {"a:1": "d"}, ("ter",))
    pairs = ours.paired_with(ItemScores({"ter": {"a:1": 4.0, "a:0": 1.0}, "f1": {"b:0": 1.0}}))
    assert set(pairs) == {"ter"}
    assert (pairs["ter"].model, pairs["ter"].baseline) == ([3.0, 5.0], [1.0, 4.0])
    assert (pairs["ter"].clusters, pairs["ter"].higher_is_better) == ([None, "d"], False)
