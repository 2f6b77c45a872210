"""Whatever is written, the answer is a configuration or an explanation; and writing it out loses nothing."""

import copy
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamafarm_ray.config import ALIASES, Config, config_digest, load_config, parse_config, resolved
from llamafarm_ray.config.layout import layout
from llamafarm_ray.config.sections.rollout import RolloutKind
from llamafarm_ray.errors import ConfigError, InputError
from llamafarm_ray.types import Digest

SEEDS = Path(__file__).parent / "data" / "seeds"
BLOCKS = [json.loads(path.read_text()) for path in sorted(SEEDS.glob("*.json"))]
BLOCKS += [resolved(Config())]
KEYS = sorted({name for path in layout().leaves for name in path} | {alias.name for alias in ALIASES})
VALUES = sorted(
    {
        "auto",
        "lora",
        "qlora",
        "full",
        "none",
        "rag_documents",
        "alpaca",
        "holdout_20_percent",
        ">0.7",
        "32Gi",
        "1x_a100",
    }
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats()
    | st.text(max_size=8)
    | st.characters(categories=["Cs"])
    | st.sampled_from(VALUES)
)
names = st.sampled_from(KEYS) | st.text(max_size=6) | st.integers() | st.none() | st.booleans()
anything = st.recursive(
    scalars, lambda below: st.lists(below, max_size=3) | st.dictionaries(names, below, max_size=4), max_leaves=12
)


@st.composite
def mutated(draw: Any) -> Any:
    """A block with a few of its places removed, replaced or added to."""
    table = copy.deepcopy(draw(st.sampled_from(BLOCKS)))
    for _ in range(draw(st.integers(1, 4))):
        here = table
        while True:
            inner = [key for key, value in here.items() if isinstance(value, dict)]
            if not inner or draw(st.booleans()):
                break
            here = here[draw(st.sampled_from(inner))]
        action = draw(st.sampled_from(["remove", "replace", "add"]))
        if action == "add" or not here:
            here[draw(names)] = draw(anything)
        elif action == "remove":
            del here[draw(st.sampled_from(list(here)))]
        else:
            here[draw(st.sampled_from(list(here)))] = draw(anything)
    return table


def check_refusal(error: ConfigError) -> None:
    assert error.problems
    assert all(": " in problem for problem in error.problems)
    assert str(error).encode()


def check(table: Any, overrides: Any = ()) -> None:
    try:
        config = parse_config(table, overrides)
    except ConfigError as error:
        check_refusal(error)
        return
    assert parse_config(json.loads(json.dumps(resolved(config), allow_nan=False))) == config


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_a_changed_configuration_is_read_or_explained(table: Any) -> None:
    check(table)


@given(st.dictionaries(names, anything, max_size=6))
def test_any_mapping_is_read_or_explained(table: Any) -> None:
    check(table)


@given(
    st.lists(st.text(max_size=12) | st.builds("{}={}".format, st.sampled_from(KEYS), st.text(max_size=12)), max_size=3)
)
def test_any_override_is_read_or_explained(overrides: Any) -> None:
    check({}, overrides)


@given(
    st.binary(max_size=60)
    | st.text(alphabet="{}[]:,-&*!|>'\"#%@`<=?~ \n\t\\0x1eE.+nulltrue", max_size=60).map(
        lambda text: text.encode("utf-8")
    ),
    st.sampled_from(["c.json", "c.yaml", "c"]),
)
def test_any_file_is_read_or_explained(tmp_path_factory: Any, content: Any, name: Any) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    try:
        load_config(path)
    except (ConfigError, InputError) as error:
        str(error).encode()


@pytest.mark.parametrize("path", sorted(SEEDS.glob("*.json")), ids=lambda path: path.stem)
def test_a_resolved_configuration_reads_back_equal(path: Any, tmp_path: Any) -> None:
    import yaml

    config = load_config(path)
    table = resolved(config)
    for name, text in (("r.json", json.dumps(table)), ("r.yaml", yaml.safe_dump(table))):
        (tmp_path / name).write_text(text)
        assert load_config(tmp_path / name) == config
    assert Config.model_validate(table) == config
    assert resolved(Config.model_validate(table)) == table


@pytest.mark.parametrize("method", ["auto", "lora", "qlora", "full", "adapter", "prefix_tuning", "hybrid_lora_adapter"])
def test_a_resolved_configuration_holds_no_key_without_effect(method: Any) -> None:
    config = parse_config({"fine_tuning": {"method": method, "training": {"warmup_steps": 5}}})
    table = resolved(config)
    assert "warmup_ratio" not in table["fine_tuning"]["training"]
    assert ("r" in table["fine_tuning"]["parameters"]) == (method in ("auto", "lora", "qlora", "hybrid_lora_adapter"))
    assert ("bits" in table["fine_tuning"]["parameters"]) == (method in ("auto", "qlora"))
    assert parse_config(table) == config


PRICES = ("input_usd_per_million_tokens", "output_usd_per_million_tokens")


def test_a_resolved_configuration_holds_every_other_key() -> None:
    missing = [path for path in layout().leaves if not is_in(resolved(Config()), path)]
    assert {".".join(path[:2]) for path in missing} == {
        "dataset.augmentation",  # what is off has no settings, and no translation has no languages
        "dataset.preprocessing",  # a limit of cost, without prices
        "dataset.quality_control",  # kinds of personal data without an action, a server without a judge, and others
        "dataset.synthetic_generation",
        "deployment.auto_scaling",
        "evaluation.canaries",  # what was memorized is not measured
        "evaluation.endpoint",  # benchmarks are asked here
        "evaluation.garak",  # it does not run
        "evaluation.judge",  # there is no judge
        "evaluation.retriever",  # the retriever here is asked
        "deployment.rollout",  # each kind has its own keys
        *(f"fine_tuning.{objective}" for objective in ("dpo", "kto", "contrastive")),  # sft has no settings
        "fine_tuning.parameters",  # those of methods that auto never chooses
        "monitoring.alerting",  # its email
        "tuning.pbt",  # the usual scheduler is another
    }
    on = {
        "deployment": {"auto_scaling": {"max_replicas": 2}},
        "evaluation": {
            "risk": ["memorization"],
            "endpoint": {"base_url": "http://127.0.0.1:8000/v1"},
            "garak": {"python": "garak-env/bin/python"},
            "judge": {"model": "gpt", "endpoint": dict.fromkeys(PRICES, 1.0)},
        },
        "dataset": {
            "preprocessing": {"qa_generation": {"endpoint": {"batch": True, **dict.fromkeys(PRICES, 1.0)}}},
            "quality_control": {
                "validation": {"domain_relevance": True},
                "pii": {"action": "drop"},
                "judge": {"model": "gpt", **dict.fromkeys(PRICES, 1.0)},
                "entailment_model": "models:entails",
            },
            "synthetic_generation": {"enabled": True},
            "augmentation": {"enabled": True, "methods": ["noise", "back_translation"]},
        },
        "monitoring": {"alerting": {"email": {"to": ["a@example.com"], "sender": "b@example.com", "server": "c"}}},
    }
    tables = [
        resolved(parse_config(on | {"fine_tuning": {"method": method}}))
        for method in ("auto", "hybrid_lora_adapter", "prefix_tuning")
    ]
    tables += [resolved(parse_config({"fine_tuning": {"objective": name}})) for name in ("dpo", "kto", "contrastive")]
    tables += [resolved(parse_config({"deployment": {"rollout": {"kind": kind}}})) for kind in get_args(RolloutKind)]
    retrievers = ({"url": "http://127.0.0.1:8000/search"}, {"embeddings": {"model": "e"}})
    tables += [resolved(parse_config({"evaluation": {"retriever": one}})) for one in retrievers]
    rates = {"fine_tuning.training.learning_rate": [1e-4, 1e-3]}
    tables.append(resolved(parse_config({"tuning": {"scheduler": "pbt", "parameters": rates}})))
    assert all(any(is_in(table, path) for table in tables) for path in layout().leaves)


def is_in(table: Any, path: Any) -> Any:
    for name in path:
        if not isinstance(table, dict) or name not in table:
            return False
        table = table[name]
    return True


def test_the_digest_is_of_what_is_said_not_of_how() -> None:
    one = parse_config({"lora_r": 8, "training_job": {"method": "lora"}})
    two = parse_config({"fine_tuning": {"parameters": {"r": 8}, "method": "lora"}, "seed": 0})
    assert config_digest(one) == config_digest(two)
    assert isinstance(config_digest(one), Digest)
    assert config_digest(one) != config_digest(parse_config({"lora_r": 9, "training_job": {"method": "lora"}}))
