"""Mistakes: all at once, each with its key as it was written, its value and what is allowed."""

import pickle
from typing import Any, get_args

import pytest

from llamafarm_ray.config import Config, parse_config
from llamafarm_ray.config.sections.evaluation import Metric
from llamafarm_ray.errors import ConfigError


def problems(table: Any, *overrides: Any) -> Any:
    with pytest.raises(ConfigError) as caught:
        parse_config(table, overrides, source="my.yaml")
    assert str(caught.value).startswith("my.yaml has ")
    return list(caught.value.problems)


def test_three_mistakes_are_reported_at_once_with_their_keys() -> None:
    found = problems(
        {
            "fine_tuning": {"method": "qlroa", "training": {"epochs": -1}},
            "deployment": {"port": "8000"},
        }
    )
    assert found == [
        (
            "fine_tuning.method: must be one of auto, lora, qlora, full, adapter, prefix_tuning, hybrid_lora_adapter, "
            "not 'qlroa'; did you mean qlora?"
        ),
        "fine_tuning.training.epochs: must be auto or more than 0, not -1.",
        "deployment.port: must be a whole number, not '8000'.",
    ]


def test_keys_are_reported_where_the_user_wrote_them() -> None:
    assert problems({"model_config": {"fine_tuning": {"parameters": {"r": 0}}}}) == [
        "model_config.fine_tuning.parameters.r: must be at least 1, not 0."
    ]
    assert problems({"training_job": {"dataset": {"quality_control": {"min_quality_score": 2}}}}) == [
        "training_job.dataset.quality_control.min_quality_score: must be at most 1, not 2."
    ]
    assert problems({"num_train_epochs": "three"}) == ["num_train_epochs: must be auto or a number, not 'three'."]
    known = ", ".join(get_args(Metric))
    assert problems({"evaluation": {"metrics": ["bleu", "blue"]}}) == [
        f"evaluation.metrics[1]: must be one of {known}, not 'blue'; did you mean bleu?"
    ]


def test_broken_rules_are_reported_beside_wrong_values() -> None:
    found = problems(
        {
            "fine_tuning": {"training": {"epochs": "x"}, "distributed": {"workers": 3, "gpus": 2}},
            "evaluation": {"test_set": "holdout_20_percent", "nonsense": 1},
            "dataset": {"validation": {"split_ratio": 0.3}},
        }
    )
    assert {problem.split(":")[0] for problem in found} == {
        "evaluation.nonsense",
        "fine_tuning.training.epochs",
        "fine_tuning.distributed.workers",
        "evaluation.test_set",
    }


def test_a_wrong_value_causes_no_second_report() -> None:
    found = problems({"deployment": {"auto_scaling": {"min_replicas": 5, "max_replicas": "ten"}, "replicas": 7}})
    assert found == ["deployment.auto_scaling.max_replicas: must be a whole number, not 'ten'."]
    found = problems({"fine_tuning": {"method": "lroa", "parameters": {"bits": 4}}})
    assert len(found) == 1


def test_a_missing_key_hides_no_other_mistake() -> None:
    found = problems({"deployment": {"auto_scaling": {"min_replicas": 1}, "port": 0}})
    assert set(found) == {
        "deployment.auto_scaling.max_replicas: is missing; it has no default.",
        "deployment.port: must be at least 1, not 0.",
    }


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"fine_tunning": {}}, "fine_tunning: is no known key; did you mean fine_tuning?"),
        (
            {"fine_tuning": {"parameters": {"lora_aplha": 1}}},
            "fine_tuning.parameters.lora_aplha: is no known key; did you mean lora_alpha?",
        ),
        (
            {"evaluation": {"warmup_steps": 3}},
            "evaluation.warmup_steps: is no key of this section; it belongs at fine_tuning.training.warmup_steps.",
        ),
        (
            {"dataset": {"replica": 3}},
            "dataset.replica: is no known key; did you mean deployment.replicas?",
        ),
        ({"Learning-Rate": 1e-4}, "Learning-Rate: is no known key; did you mean learning_rate?"),
        (
            {"cluster": {"xyzzy": 1}},
            "cluster.xyzzy: is no known key; there is address.",
        ),
    ],
)
def test_unknown_keys_come_with_a_suggestion(table: Any, expected: Any) -> None:
    assert problems(table) == [expected]


def test_a_key_of_another_tool_is_not_taken_for_one_of_a_section_that_it_is_a_bit_like() -> None:
    (problem,) = problems({"template": "llama3"})  # evaluation.garak.temperature has half of its letters
    assert problem.startswith("template: is no known key; there is name, version, base_model,")


def test_a_key_given_in_two_places_names_both() -> None:
    found = problems({"lora_r": 8, "fine_tuning": {"parameters": {"r": 16}}})
    assert found == [
        "fine_tuning.parameters.r: is 16, but lora_r is 8, and both mean fine_tuning.parameters.r; keep one."
    ]
    found = problems({"dataset": {"path": "a"}, "fine_tuning": {"dataset": {"path": "b"}}})
    assert found == ["fine_tuning.dataset.path: is 'b', but dataset.path is 'a', and both mean dataset.path; keep one."]
    found = problems({"load_in_4bit": True, "fine_tuning": {"method": "full"}})
    assert found == [
        "fine_tuning.method: is 'full', but load_in_4bit is true, and both mean fine_tuning.method; keep one."
    ]


def test_a_key_given_twice_with_one_value_is_fine() -> None:
    assert parse_config({"lora_r": 8, "fine_tuning": {"parameters": {"r": 8}}}).fine_tuning.parameters.r == 8


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            {"fine_tuning": 3},
            "fine_tuning: must be a mapping with keys such as method, objective, parameters, training, not 3.",
        ),
        ({"tags": "a"}, "tags: must be a list, not 'a'."),
        ({"name": 7}, "name: must be text, not 7; put it in quotes."),
        (
            {"name": "auto"},
            "name: must be another name than 'auto', which asks for the best model for a task, not 'auto'.",
        ),
        ({"name": "a b"}, "name: must be 1 to 96 letters, digits and, inside, '.', '_' or '-', not 'a b'."),
        ({"version": "1.0"}, "version: must be a semantic version such as 1.2.0 or 1.2.0-rc.1, not '1.0'."),
        ({"base_model": ""}, "base_model: must be text that isn't empty, not ''."),
        ({"seed": True}, "seed: must be a whole number, not true."),
        ({"seed": 1.5}, "seed: must be a whole number, not 1.5."),
        ({"seed": None}, "seed: must be a whole number, not null."),
        ({"dataset": {"augmentation": "yes"}}, "dataset.augmentation: must be true or false, not 'yes'."),
        ({3: 4}, "3: is no text, as every key must be; put it in quotes."),
        (
            {"dataset": {"source": "rag_document"}},
            (
                "dataset.source: must be one of rag_documents, conversation_logs, domain_corpus, synthetic, "
                "human_feedback, not 'rag_document'; did you mean rag_documents?"
            ),
        ),
        (
            {"fine_tuning": {"parameters": {"target_modules": 3}}},
            "fine_tuning.parameters.target_modules: must be one of auto, all-linear or a list, not 3.",
        ),
        (
            {"fine_tuning": {"parameters": {"target_modules": ["q_proj", 3]}}},
            "fine_tuning.parameters.target_modules[1]: must be text, not 3; put it in quotes.",
        ),
        (
            {"deployment": {"resources": {"gpu": "lots of"}}},
            (
                "deployment.resources.gpu: must be a number of GPUs such as 1, 0.5 or 2, or a number and a type such "
                "as '1x_a100', not 'lots of'."
            ),
        ),
        (
            {"evaluation": {"test_set": "holdout_0_percent"}},
            (
                "evaluation.test_set: must be a path, or a held-out share such as holdout_20_percent (1 to 99), "
                "not 'holdout_0_percent'."
            ),
        ),
    ],
)
def test_a_wrong_value_says_what_is_allowed(table: Any, expected: Any) -> None:
    assert problems(table) == [expected]


def test_strange_texts_can_be_printed() -> None:
    for problem in problems({"\ud800": 1, "a\nb": 1, "x" * 500: 1, "name": "\ud800", "description": "\udfff"}):
        problem.encode()
        assert "\n" not in problem
        assert len(problem) < 500


def test_braces_in_values_are_kept() -> None:
    assert problems({"name": "{0}{x}"})[0].endswith("not '{0}{x}'.")


def test_errors_survive_pickling() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"seed": -1})
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert again.problems == caught.value.problems


def test_canonical_mappings_are_judged_by_the_same_rules() -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match="warmup_steps"):
        Config.model_validate({"fine_tuning": {"training": {"warmup_steps": 1, "warmup_ratio": 0.1}}})
