"""key=value on top of a file."""

from typing import Any

import pytest

from llamafarm_ray.config import Config, load_config, parse_config
from llamafarm_ray.errors import ConfigError

FILE = {
    "fine_tuning": {"method": "lora", "parameters": {"r": 8, "lora_alpha": 4}},
    "deployment": {"adapters": ["a", "b"], "auto_scaling": {"max_replicas": 3}, "engine_kwargs": {"x": 1}},
    "dataset": {"preprocessing": {"qa_generation": {"questions_per_doc": 5}}},
}


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("fine_tuning.parameters.r=32", "fine_tuning.parameters.r", 32),
        ("lora_r=32", "fine_tuning.parameters.r", 32),
        ("model_config.fine_tuning.parameters.r=32", "fine_tuning.parameters.r", 32),
        ("fine_tuning.parameters={r: 32}", "fine_tuning.parameters.r", 32),
        ("fine_tuning.parameters={r: 32}", "fine_tuning.parameters.lora_alpha", 4),
        ("lr=2e-4", "fine_tuning.training.learning_rate", 2e-4),
        ("deployment.adapters=[c,d]", "deployment.adapters", ("c", "d")),
        ("deployment.adapters[1]=c", "deployment.adapters", ("a", "c")),
        ("deployment.adapters.0=c", "deployment.adapters", ("c", "b")),
        ("deployment.adapters.2=c", "deployment.adapters", ("a", "b", "c")),
        ("evaluation.metrics[0]=rouge", "evaluation.metrics", None),
        ("deployment.engine_kwargs.y=true", "deployment.engine_kwargs", {"x": 1, "y": True}),
        ("cluster.address=ray://host:10001", "cluster.address", "ray://host:10001"),
        ("description=a: b # c = d", "description", "a: b # c = d"),
        ("description=- no list", "description", "- no list"),
        ("description='12'", "description", "12"),
        ("description=<<", "description", "<<"),
        ("description=", "description", None),
        ("fine_tuning.parameters.r=null", "fine_tuning.parameters.r", 16),
        ("lora_r=null", "fine_tuning.parameters.r", 16),
        ("fine_tuning.parameters=null", "fine_tuning.parameters.r", 16),
        ("deployment.auto_scaling=null", "deployment.auto_scaling", None),
        (
            "dataset.preprocessing.qa_generation.questions_per_doc=null",
            "dataset.preprocessing.qa_generation.questions_per_doc",
            None,
        ),
        ("seed = 5", "seed", 5),
    ],
)
def test_an_override_is_laid_over_the_file(override: Any, key: Any, value: Any) -> None:
    if override.startswith("evaluation.metrics"):
        with pytest.raises(ConfigError, match="metrics"):
            parse_config(FILE, ["evaluation.metrics[0]=3"])
        value = ("rouge", "bleu", "rouge")
    here = parse_config(FILE, [override])
    for name in key.split("."):
        here = getattr(here, name)
    assert here == value


def test_the_last_override_of_a_key_holds() -> None:
    assert parse_config(FILE, ["lora_r=32", "fine_tuning.parameters.r=64"]).fine_tuning.parameters.r == 64


def test_an_override_of_the_method_beats_the_files() -> None:
    assert parse_config(FILE, ["load_in_4bit=true"]).fine_tuning.method == "qlora"
    assert parse_config(FILE, ["load_in_4bit=false"]).fine_tuning.method == "lora"
    with pytest.raises(ConfigError, match="rules out 4-bit weights, and not more"):
        parse_config({"fine_tuning": {"method": "qlora"}}, ["load_in_4bit=false"])


def test_null_clears_the_way_for_another_method() -> None:
    config = parse_config(FILE, ["fine_tuning.method=full", "fine_tuning.parameters=null"])
    assert config.fine_tuning.method == "full"


def test_overrides_need_no_file() -> None:
    assert load_config(None, ["seed=3"]).seed == 3
    assert load_config(None) == Config()


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "fine_tuning.parameters.r=x",
            "fine_tuning.parameters.r (--set fine_tuning.parameters.r=x): must be a whole number, not 'x'.",
        ),
        ("lora_q=1", "lora_q (--set lora_q=1): is no known key; did you mean lora_r?"),
        ("bf16=maybe", "bf16 (--set bf16=maybe): must be one of true, false, 'auto', 'full', not 'maybe'."),
        ("seed", "--set 'seed': is no override; write key=value, such as fine_tuning.parameters.r=32."),
        ("=3", "--set '=3': is no override; write key=value, such as fine_tuning.parameters.r=32."),
        ("tags=[a", "--set 'tags=[a': its value is no YAML: expected ',' or ']', but got '<stream end>'."),
        ("seed[0]=1", "seed (--set seed[0]=1): is no list, so nothing is at position 0."),
        ("tags[3]=a", "tags (--set tags[3]=a): has 0 elements, so position 3 is out of range."),
        ("tags[0][1]=a", "--set 'tags[0][1]=a': has positions in a place where no list is."),
        ("seed=.nan", "seed (--set seed=.nan): must be a finite number, not nan."),
    ],
)
def test_a_mistake_in_an_override_names_the_override(override: Any, problem: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert caught.value.source == "the command line"
    assert list(caught.value.problems) == [problem]


def test_mistakes_of_file_and_overrides_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"seed": "a"}, ["deployment.port=b", "nonsense"])
    assert len(caught.value.problems) == 3
