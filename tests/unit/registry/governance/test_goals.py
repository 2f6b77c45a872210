"""Evaluation results as gates: short names, thresholds, and no worse than what is in production."""

import pytest

from llamafarm_ray.config.goals import NoWorse, is_lower_better
from llamafarm_ray.errors import InputError, PolicyError
from llamafarm_ray.evaluation.comparison import PairedScores, compare
from llamafarm_ray.evaluation.metrics import METRICS
from llamafarm_ray.registry import Policy
from llamafarm_ray.registry.commands import SetPolicy
from llamafarm_ray.registry.governance.results import UNDECIDABLE, result_value, result_verdict
from llamafarm_ray.workflows.governance.policies import parse_policy

RESULTS = {
    "evaluation_results": {
        "benchmarks": {
            "mmlu": {"acc_norm": 0.41, "accuracy": 0.44, "num_examples": 285},
            "wikitext": {"num_examples": 9, "byte_perplexity": 2.5},
            "held_out": {"perplexity": 3.5, "baseline": {"perplexity": 9.0}},
        },
        "rag_integration": {"rag_accuracy": 0.7},
        "production_metrics": {"error_rate": 0.01, "latency_p95": "150ms"},
    },
    "flat.score": 0.3,
    "safety": {"v1.5": {"rate": 0.9}},
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mmlu", 0.44),
        ("mmlu.acc_norm", 0.41),
        ("wikitext", 2.5),
        ("evaluation_results.benchmarks.mmlu.accuracy", 0.44),
        ("perplexity", 3.5),
        ("held_out.baseline.perplexity", 9.0),
        ("rag_accuracy", 0.7),
        ("error_rate", 0.01),
        ("flat.score", 0.3),
        ("safety.v1.5.rate", 0.9),
        ("latency_p95", None),  # a text for people
        ("hellaswag", None),
        ("", None),
    ],
)
def test_a_rule_names_a_result_by_its_own_name(name, value):
    assert result_value(RESULTS, name) == value


def test_what_is_recorded_by_the_whole_name_wins():
    assert result_value({"mmlu": 0.1, **RESULTS}, "mmlu") == 0.1


@pytest.mark.parametrize(
    ("name", "lower"),
    [
        ("held_out.perplexity", True),
        ("error_rate", True),
        ("latency_p95_s", True),
        ("calibration_error", True),
        ("validation_loss", True),
        ("mmlu", False),
        ("error_rate.accuracy", False),
        ("rouge_l", False),
        ("tokens_per_second", False),
        ("user_satisfaction", False),
    ],
)
def test_the_name_says_which_direction_is_better(name, lower):
    assert is_lower_better(name) is lower


def test_every_metric_has_the_direction_that_its_name_says():
    directed = {
        name: metric.higher_is_better for name, metric in METRICS.items() if metric.higher_is_better is not None
    }
    assert {name: not is_lower_better(name) for name in directed} == directed


def measured(registry, **scores):
    """Promote version 1.0.0, and measure both versions: ``mmlu=(0.40, 0.38)``."""
    for number, version in enumerate(("1.0.0", "1.1.0")):
        benchmarks = {name: {"accuracy": pair[number]} for name, pair in scores.items()}
        registry.record_metrics(f"bot:{version}", {"evaluation_results": {"benchmarks": benchmarks}})
    registry.promote("bot:1.0.0", "production")


@pytest.mark.parametrize(
    ("goal", "pair", "refused"),
    [
        (">=0.40", (0.5, 0.40), None),
        (">=0.40", (0.5, 0.39), "mmlu must be >=0.40, and is 0.39"),
        ("no worse than production", (0.40, 0.40), None),
        ("no worse than production", (0.40, 0.39), "and is 0.39 where bot:1.0.0 has 0.4"),
        ("no worse than production by more than 0.02", (0.40, 0.38), None),
        ("no worse than production by more than 0.02", (0.40, 0.37), "is 0.37 where"),
        ("no worse than staging", (0.40, 0.1), None),
    ],
)
def test_a_promotion_needs_the_results_that_the_rules_ask_for(registry, versions, goal, pair, refused):
    versions("bot", "1.0.0", "1.1.0", license="MIT")
    measured(registry, mmlu=pair)
    registry.submit(SetPolicy("production", Policy(metrics={"mmlu": goal})))
    if refused is None:
        registry.promote("bot:1.1.0", "production")
        assert registry.resolve("bot@production").ref == "bot:1.1.0"
        return
    with pytest.raises(PolicyError, match=refused):
        registry.promote("bot:1.1.0", "production")


def test_nothing_that_was_not_measured_on_both_sides_is_no_worse(registry, versions):
    versions("bot", "1.0.0", "1.1.0", license="MIT")
    measured(registry, mmlu=(0.4, 0.5))
    registry.submit(SetPolicy("production", Policy(metrics={"hellaswag": "no worse than production"})))
    with pytest.raises(PolicyError, match="and was not measured"):
        registry.promote("bot:1.1.0", "production")
    registry.record_metrics("bot:1.1.0", {"hellaswag": 0.9})
    with pytest.raises(PolicyError, match=r"was not measured of bot:1\.0\.0"):
        registry.promote("bot:1.1.0", "production")


def test_a_metric_that_falls_when_a_model_gets_better_must_not_rise():
    goal = NoWorse.parse("no worse than production")
    assert goal.holds("perplexity", 3.0, 3.5)
    assert not goal.holds("perplexity", 3.6, 3.5)


@pytest.mark.parametrize("text", ["mmlu", "mmlu no worse", "mmlu better than", ">0.3", "mmlu=0.4"])
def test_a_rule_of_another_form_is_refused(text):
    with pytest.raises(InputError, match="is no rule for a metric"):
        parse_policy([text])


def test_rules_survive_being_written():
    rules = ["mmlu>=0.40", "f1 no worse than  production by more than 0.02", "bleu better than production"]
    policy = parse_policy(rules)
    assert Policy.model_validate_json(policy.model_dump_json()) == policy
    assert policy.model_dump()["metrics"] == {
        "mmlu": ">=0.40",
        "f1": "no worse than production by more than 0.02",
        "bleu": "better than production",
    }


def test_scores_of_two_engines_are_not_compared_by_a_gate(registry, versions):
    def results(accuracy, backend):
        scores = {"accuracy": accuracy, "digests": {"backend": backend}}
        return {"evaluation_results": {"benchmarks": {"mmlu": scores}}}

    versions("bot", "1.0.0", metrics=results(0.3, "gguf"))
    registry.promote("bot:1.0.0", "production")
    for name in ("mmlu", "mmlu.accuracy"):
        registry.submit(SetPolicy("production", Policy(metrics={name: "no worse than production"})))
        versions("bot", f"1.1.{len(name)}", metrics=results(0.4, "transformers"))
        with pytest.raises(PolicyError, match=r"measured on transformers where bot:1\.0\.0 was measured on gguf"):
            registry.promote(f"bot:1.1.{len(name)}", "production")
    versions("bot", "1.2.0", metrics=results(0.3, "gguf"))
    registry.promote("bot:1.2.0", "production")


DIGESTS = {"data": "d", "settings": "s", "template": "t", "backend": "transformers", "code": "c"}


@pytest.mark.parametrize("part", ["data", "settings", "template", "code"])
def test_a_gate_compares_only_what_was_measured_alike(registry, versions, part):
    def results(accuracy, digests):
        scores = {"accuracy": accuracy, "digests": digests}
        return {"evaluation_results": {"benchmarks": {"mmlu": scores}}}

    versions("bot", "1.0.0", metrics=results(0.3, DIGESTS))
    registry.promote("bot:1.0.0", "production")
    registry.submit(SetPolicy("production", Policy(metrics={"mmlu": "no worse than production"})))
    versions("bot", "1.1.0", metrics=results(0.9, {**DIGESTS, part: "easier"}))
    with pytest.raises(PolicyError, match=rf"measured with different {part} than bot:1\.0\.0: evaluate both alike"):
        registry.promote("bot:1.1.0", "production")
    versions("bot", "1.2.0", metrics=results(0.9, None))
    with pytest.raises(PolicyError, match=r"how it was measured of bot:1\.2\.0 is not recorded"):
        registry.promote("bot:1.2.0", "production")
    versions("bot", "1.3.0", metrics=results(0.3, DIGESTS))
    registry.promote("bot:1.3.0", "production")


@pytest.mark.parametrize("name", ["rag_accuracy", "rag_integration.response_quality", "faithfulness", "ndcg"])
def test_a_gate_on_answers_with_passages_compares_only_what_was_measured_alike(registry, versions, name):
    def results(data):
        scores = dict.fromkeys(("accuracy", "faithfulness", "ndcg"), 0.5)
        block = dict.fromkeys(("rag_accuracy", "response_quality", "faithfulness", "ndcg"), 0.5)
        retrieved = {"retrieved": {**scores, "digests": {**DIGESTS, "data": data}}}
        return {"evaluation_results": {"benchmarks": retrieved, "rag_integration": block}}

    versions("bot", "1.0.0", metrics=results("all"))
    registry.promote("bot:1.0.0", "production")
    registry.submit(SetPolicy("production", Policy(metrics={name: "no worse than production"})))
    versions("bot", "1.1.0", metrics=results("ten"))
    with pytest.raises(PolicyError, match=r"measured with different data than bot:1\.0\.0"):
        registry.promote("bot:1.1.0", "production")
    versions("bot", "1.2.0", metrics=results("all"))
    registry.promote("bot:1.2.0", "production")


def compared(verdict, compared_with, metric="accuracy"):
    scores = {"accuracy": 0.4, "exact_match.strict": 0.3, "comparison": {metric: {"verdict": verdict}}}
    return {"evaluation_results": {"benchmarks": {"mmlu": {**scores, "compared_with": compared_with}}}}


@pytest.mark.parametrize(
    ("goal", "verdict", "compared_with", "refused"),
    [
        ("better than production", "better", "bot:1.0.0", None),
        ("better than production", "noise", "bot:1.0.0", r"comparison with bot:1\.0\.0 is 'noise'"),
        ("not significantly worse than production", "noise", "bot:1.0.0", None),
        ("not significantly worse than production", "better", "bot:1.0.0", None),
        ("not significantly worse than production", "worse", "bot:1.0.0", r"comparison with bot:1\.0\.0 is 'worse'"),
        ("better than production", "better", "bot:0.9.0", r"not compared with bot:1\.0\.0: .* --baseline bot:1\.0\.0"),
        ("better than production", "better", None, r"not compared with bot:1\.0\.0"),
        ("better than staging", "worse", "bot:1.0.0", None),
    ],
)
def test_a_promotion_by_verdict_needs_a_comparison_with_that_version(
    registry, versions, goal, verdict, compared_with, refused
):
    versions("bot", "1.0.0", license="MIT")
    registry.promote("bot:1.0.0", "production")
    versions("bot", "1.1.0", license="MIT", metrics=compared(verdict, compared_with))
    registry.submit(SetPolicy("production", Policy(metrics={"mmlu": goal})))
    if refused is None:
        registry.promote("bot:1.1.0", "production")
        return
    with pytest.raises(PolicyError, match=refused):
        registry.promote("bot:1.1.0", "production")


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("mmlu", "accuracy"),
        ("mmlu.accuracy", "accuracy"),
        ("mmlu.exact_match.strict", "exact_match.strict"),
        ("evaluation_results.benchmarks.mmlu.exact_match.strict", "exact_match.strict"),
        ("mmlu.accuracy", "log_accuracy"),
    ],
)
def test_a_verdict_is_found_by_the_name_of_its_score(name, metric):
    assert result_verdict(compared("worse", "bot:1.0.0", metric), name) == ("worse", "bot:1.0.0")


@pytest.mark.parametrize(
    ("num_documents", "num_metrics", "is_told"),
    [(1, 1, False), (5, 1, False), (6, 1, True), (8, 9, False), (9, 9, True)],
)
def test_documents_too_few_for_any_verdict_give_none(num_documents, num_metrics, is_told):
    def found(ours):
        pairs = {
            f"m{at}": PairedScores(ours, [0.0] * num_documents, [f"{at}.md" for at in range(num_documents)])
            for at in range(num_metrics)
        }
        results = compared("noise", "bot:1.0.0")
        comparison = compare(pairs)["m0"].to_dict()
        results["evaluation_results"]["benchmarks"]["mmlu"]["comparison"] = {"accuracy": comparison}
        return result_verdict(results, "mmlu")

    assert found([0.0] * num_documents) == ("noise" if is_told else UNDECIDABLE, "bot:1.0.0")
    assert found([1.0] * num_documents) == ("better" if is_told else UNDECIDABLE, "bot:1.0.0")


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("faithfulness", "better"),
        ("rag_integration.faithfulness", "better"),
        ("rag_accuracy", "worse"),
        ("response_quality", "worse"),
        ("retrieved.accuracy", "worse"),
        ("retrieval_relevance", ""),
        ("closed_book", "noise"),
    ],
)
def test_short_names_of_answers_with_passages_have_the_verdict_of_the_mode(name, verdict):
    def mode(**verdicts):
        comparison = {metric: {"verdict": one} for metric, one in verdicts.items()}
        return {"accuracy": 0.5, "comparison": comparison, "compared_with": "bot:1.0.0"}

    found = {
        "benchmarks": {
            "closed_book": mode(accuracy="noise"),
            "retrieved": mode(accuracy="worse", faithfulness="better"),
        },
        "rag_integration": dict.fromkeys(
            ("retrieval_relevance", "response_quality", "rag_accuracy", "faithfulness"), 0.5
        ),
    }
    assert result_verdict({"evaluation_results": found}, name) == (verdict, "bot:1.0.0")


def test_a_score_that_has_no_verdict_is_refused_by_that_name(registry, versions):
    versions("bot", "1.0.0", license="MIT")
    registry.promote("bot:1.0.0", "production")
    results = compared("noise", "bot:1.0.0")
    results["evaluation_results"]["benchmarks"]["mmlu"]["bleu"] = 3.0
    versions("bot", "1.1.0", license="MIT", metrics=results)
    registry.submit(SetPolicy("production", Policy(metrics={"mmlu.bleu": "not significantly worse than production"})))
    with pytest.raises(PolicyError, match=r"its comparison with bot:1\.0\.0 has no verdict: a score of a whole set"):
        registry.promote("bot:1.1.0", "production")


def test_a_score_without_a_comparison_has_no_verdict():
    assert result_verdict(RESULTS, "mmlu") == ("", "")
    assert result_verdict(RESULTS, "hellaswag") == ("", "")
