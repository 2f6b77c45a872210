"""Risks of a version: training data by lineage, gates by short names, cards and rankings."""

import json

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.config.goals import is_lower_better, parse_goal
from llamafarm_ray.errors import ConfigError, InputError
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.governance.policy import Policy, violations
from llamafarm_ray.registry.governance.results import result_value
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.evaluation.risk import plan_risks
from llamafarm_ray.workflows.versions.card import model_card
from llamafarm_ray.workflows.versions.leaderboard import make_leaderboard
from llamafarm_ray.workflows.versions.metrics import add_result
from llamafarm_ray.workflows.versions.training_data import TrainingData, find_training_data

DIGESTS = dict.fromkeys(("weights", "data", "code", "template", "settings", "backend"), "sha256:" + "0" * 64)


def rows(*answers):
    return [
        {"messages": [{"role": "user", "content": f"Question {at}?"}, {"role": "assistant", "content": answer}]}
        for at, answer in enumerate(answers)
    ]


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "qa.jsonl"
    path.write_text("\n".join(map(json.dumps, rows("Call +49 30 1234567 or write to ann@example.org.", "No."))))
    return path


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"), principal="ann")


def register(registry, tmp_path, **details):
    from llamafarm_ray.data.reading import read_dataset

    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    if "dataset" in details:
        details["dataset_digest"] = read_dataset(details.pop("dataset")).digest
        details["dataset"] = "qa"
    return registry.register(folder, name="bot", kind=ModelKind.BASE, **details)


def config(**evaluation):
    return parse_config({"evaluation": evaluation})


def found_in(registry, record, settings):
    return find_training_data(settings, registry, folder=None, version=record.ref)


def test_training_data_are_found_by_the_digest_of_the_lineage_and_never_by_their_place_alone(
    registry, tmp_path, dataset
):
    record = register(registry, tmp_path, dataset=dataset)
    settings = parse_config({"dataset": {"path": str(dataset)}})
    known = found_in(registry, record, settings)
    assert (len(known.rows), known.reason) == (2, "")
    assert known.name.startswith("qa@")
    dataset.write_text(json.dumps(rows("Something else.")[0]))
    assert "which has other rows now" in found_in(registry, record, settings).reason
    assert "registered at no place" in found_in(registry, record, config()).reason


def test_a_model_without_lineage_has_a_reason_and_no_score_for_what_it_memorized(registry, tmp_path):
    trained = found_in(registry, register(registry, tmp_path), config())
    plan = plan_risks(config(risk=["memorization", "jailbreaks"]), None, trained)
    assert [test.name for test in plan.tests] == ["jailbreaks"]
    assert plan.unmeasured == {"memorization": "its lineage names no training data"}


def test_personal_data_of_trained_answers_and_canaries_are_asked_for(tmp_path):
    trained = TrainingData(
        "qa@1",
        tuple(
            {"id": str(at), **row}
            for at, row in enumerate(
                rows("Call +49 30 1234567 or write to ann@example.org, and then wait for us.", "No.")
            )
        ),
    )
    canaries = tmp_path / "canaries.jsonl"
    canaries.write_text(json.dumps({"prompt": "Code?", "answer": "It is 281265017.", "secret": "281265017"}))
    (test,) = plan_risks(config(risk=["memorization"], canaries=str(canaries)), None, trained).tests
    assert [probe.group for probe in test.probes] == ["recital", "leak", "leak", "pii", "pii", "canary"]
    assert [probe.rest for probe in test.probes[1:3]] == ["+49 30 1234567", "ann@example.org"]
    assert test.sample == "2 of 2 answers, 2 personal data of qa@1, 1 canaries of canaries.jsonl"
    canaries.write_text(json.dumps({"prompt": "Code?", "answer": "None.", "secret": "281265017"}))
    with pytest.raises(InputError, match="line 1: the secret is not in the answer"):
        plan_risks(config(risk=["memorization"], canaries=str(canaries)), None, trained)


def test_canaries_without_memorization_are_refused():
    with pytest.raises(ConfigError, match="canaries: has no effect while"):
        config(risk=["jailbreaks"], canaries="x.jsonl")


def result(rate, **more):
    jailbreaks = BenchmarkScores(
        {"attack_success_rate": rate, "attack_success_rate_plain": 0.0},
        num_examples=50,
        intervals={"attack_success_rate": (0.01, 0.3)},
        method="Asked.",
        sample="jailbreak set 1",
        digests=DIGESTS,
    )
    missing = BenchmarkScores({}, num_examples=0, reason="unknown data")
    return EvaluationResult(
        "bot", "2026-01-01T00:00:00Z", {}, risk={"jailbreaks": jailbreaks, "memorization": missing, **more}
    )


def test_a_policy_names_a_risk_as_it_names_a_benchmark(registry, tmp_path):
    record = add_result(registry, register(registry, tmp_path).ref, result(0.2))
    assert result_value(record.metrics, "jailbreaks") == 0.2
    assert result_value(record.metrics, "jailbreaks.attack_success_rate_plain") == 0

    def refused(**metrics):
        policy = Policy(metrics={name: parse_goal(goal) for name, goal in metrics.items()})
        return [one.message for one in violations(policy, record, promoter="ann", approvers=())]

    assert refused(jailbreaks="<0.3") == []
    assert refused(jailbreaks="<0.1") == ["jailbreaks must be <0.1, and is 0.2"]
    assert refused(memorization="<0.1") == ["memorization must be <0.1, and was not measured"]


@pytest.mark.parametrize(
    ("name", "lower"),
    [
        ("jailbreaks", True),
        ("risk.prompt_injection.attack_success_rate", True),
        ("memorization.pii_exposure", True),
        ("memorization.pii_leak_rate", True),
        ("fairness", True),
        ("fairness.largest_gap", True),
        ("over_refusal", True),
        ("over_refusal.over_refusal_rate_history", True),
        ("robustness", False),
        ("robustness.accuracy_kept_typos", False),
        ("judge.closed_book.win_rate", False),
    ],
)
def test_no_worse_than_production_knows_the_direction_of_each_risk(name, lower):
    assert is_lower_better(name) == lower


def test_a_later_measurement_of_one_risk_keeps_the_others_and_the_benchmarks(registry, tmp_path):
    ref = register(registry, tmp_path).ref
    add_result(registry, ref, EvaluationResult("bot", "t", {"mmlu": BenchmarkScores({"accuracy": 0.5})}))
    add_result(registry, ref, result(0.2))
    later = EvaluationResult("bot", "t", {}, risk={"over_refusal": BenchmarkScores({"over_refusal_rate": 0.1})})
    kept = add_result(registry, ref, later).metrics["evaluation_results"]
    assert set(kept["risk"]) == {"jailbreaks", "memorization", "over_refusal"}
    assert set(kept["benchmarks"]) == {"mmlu"}


def test_risks_are_on_the_card_and_ranked_with_the_lowest_first(registry, tmp_path):
    record = add_result(registry, register(registry, tmp_path).ref, result(0.2))
    card = model_card(registry, record.ref)
    assert "| jailbreaks | attack_success_rate 0.2 | 0.01 to 0.3 |  | jailbreak set 1, 50 measured | Asked. |" in card
    assert "| memorization | not measured |  |  |  | unknown data |" in card
    (ranking,) = make_leaderboard(registry).rankings
    assert (ranking.benchmark, ranking.higher_is_better) == ("risk.jailbreaks", False)
