"""Rules between keys name the keys; what a choice makes meaningless is an error, never ignored."""

from typing import Any

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import ConfigError


def problem(table: Any) -> Any:
    with pytest.raises(ConfigError) as caught:
        parse_config(table)
    assert len(caught.value.problems) == 1, caught.value.problems
    return caught.value.problems[0]


@pytest.mark.parametrize("method", ["full", "adapter", "prefix_tuning"])
@pytest.mark.parametrize(
    "parameter",
    [
        {"r": 16},
        {"lora_alpha": 4},
        {"lora_dropout": 0.1},
        {"target_modules": "auto"},
        {"use_rslora": True},
        {"use_dora": True},
        {"bits": 4},
        {"double_quantization": True},
        {"quantization_type": "fp4"},
    ],
    ids=lambda parameter: next(iter(parameter)),
)
def test_parameters_of_other_methods_are_refused(method: Any, parameter: Any) -> None:
    found = problem({"fine_tuning": {"method": method, "parameters": parameter}})
    key = next(iter(parameter))
    assert found == (
        f"fine_tuning.parameters.{key}: has no effect with fine_tuning.method {method}; "
        "remove it, or choose a method that uses it."
    )


@pytest.mark.parametrize("key", ["bits", "double_quantization", "quantization_type"])
def test_quantization_belongs_to_qlora(key: Any) -> None:
    value = {"bits": 4, "double_quantization": False, "quantization_type": "fp4"}[key]
    table = {"fine_tuning": {"method": "lora", "parameters": {key: value}}}
    assert f"fine_tuning.parameters.{key}: has no effect" in problem(table)
    for method in ("qlora", "auto"):
        table["fine_tuning"]["method"] = method
        assert getattr(parse_config(table).fine_tuning.parameters, key) == value


def test_a_refused_parameter_is_named_as_it_was_written() -> None:
    found = problem({"lora_r": 8, "finetuning_type": "full"})
    assert found.startswith("lora_r: has no effect with finetuning_type full")


def loop(**training: Any) -> Any:
    return {"fine_tuning": {"training": training}}


def workers(**distributed: Any) -> Any:
    return {"fine_tuning": {"distributed": distributed}}


def scaling(**keys: Any) -> Any:
    return {"deployment": {"auto_scaling": keys}}


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        (
            loop(warmup_steps=1, warmup_ratio=0.1),
            ["fine_tuning.training.warmup_ratio", "fine_tuning.training.warmup_steps"],
        ),
        (workers(workers=4, gpus=2, nodes=1), ["workers", "gpus", "nodes", "2 x 1 = 2"]),
        (workers(workers=3, nodes=2), ["fine_tuning.distributed.workers", "fine_tuning.distributed.nodes"]),
        (
            workers(strategy="single", workers=2),
            ["fine_tuning.distributed.strategy", "fine_tuning.distributed.workers"],
        ),
        (workers(strategy="single", gpus=2), ["fine_tuning.distributed.strategy", "fine_tuning.distributed.gpus"]),
        (
            workers(strategy="ddp", offload="cpu"),
            ["fine_tuning.distributed.offload", "fine_tuning.distributed.strategy"],
        ),
        (
            workers(strategy="deepspeed_zero2", offload="nvme", nvme_path="/fast"),
            ["fine_tuning.distributed.offload", "deepspeed_zero3"],
        ),
        (workers(strategy="deepspeed_zero3", offload="nvme"), ["fine_tuning.distributed.nvme_path", "nvme"]),
        (workers(workers=[3, 2]), ["fine_tuning.distributed.workers", "lower number comes first"]),
        (workers(workers=[1, 2], gpus=2), ["fine_tuning.distributed.workers", "gpus"]),
        (scaling(min_replicas=3, max_replicas=2), ["auto_scaling.min_replicas", "auto_scaling.max_replicas"]),
        ({"deployment": {"replicas": 0}}, ["deployment.replicas", "deployment.auto_scaling"]),
        (
            {"deployment": {"replicas": 9, "auto_scaling": {"max_replicas": 3}}},
            ["deployment.replicas", "deployment.auto_scaling.min_replicas", "deployment.auto_scaling.max_replicas"],
        ),
        (
            {"quality_control": {"filters": {"minimum_length": 9, "maximum_length": 8}}},
            ["quality_control.filters.minimum_length", "quality_control.filters.maximum_length"],
        ),
        (
            {"evaluation": {"test_set": "holdout_20_percent"}, "val_set_size": 0.1},
            ["evaluation.test_set", "val_set_size"],
        ),
        (
            {"dataset": {"format": "alpaca", "preprocessing": {"format": "chatml"}}},
            ["dataset.format", "dataset.preprocessing.format"],
        ),
        (
            {"dataset": {"format": "auto_generate_qa", "preprocessing": {"qa_generation": {"enabled": False}}}},
            ["dataset.format", "dataset.preprocessing.qa_generation.enabled"],
        ),
        (
            {"dataset": {"preprocessing": {"qa_generation": {"enabled": False, "model": "rules"}}}},
            ["dataset.preprocessing.qa_generation.model", "dataset.preprocessing.qa_generation.enabled"],
        ),
        (
            {"dataset": {"synthetic_generation": {"base_model": "gpt-4"}}},
            ["dataset.synthetic_generation.base_model", "dataset.synthetic_generation.enabled"],
        ),
        ({"fine_tuning": {"parameters": {"target_modules": []}}}, ["fine_tuning.parameters.target_modules"]),
        ({"dataset": {"validation": {"split_ratio": 1}}}, ["dataset.validation.split_ratio", "less than 1"]),
        ({"deployment": {"port": 65536}}, ["deployment.port", "65535"]),
    ],
)
def test_a_broken_rule_names_its_keys(table: Any, keys: Any) -> None:
    found = problem(table)
    assert all(key in found for key in keys), found


def test_workers_are_gpus_times_nodes() -> None:
    assert parse_config(workers(gpus=8, nodes=2)).fine_tuning.distributed.num_workers == 16
    assert parse_config(workers(workers=16, gpus=8, nodes=2)).fine_tuning.distributed.num_workers == 16
    assert parse_config(workers(workers=3)).fine_tuning.distributed.num_workers == 3
    assert parse_config({}).fine_tuning.distributed.num_workers is None


def test_what_one_key_implies_is_filled_in_at_another() -> None:
    assert parse_config({"evaluation": {"test_set": "holdout_25_percent"}}).dataset.validation.split_ratio == 0.25
    assert parse_config({"dataset": {"format": "alpaca"}}).dataset.preprocessing.format == "alpaca"
    assert parse_config(scaling(min_replicas=2, max_replicas=4)).deployment.replicas == 2
    assert parse_config({"lora_r": 100}).deployment.max_lora_rank == 128


def test_a_test_set_may_be_a_path() -> None:
    config = parse_config({"evaluation": {"test_set": "holdout_set/test.jsonl"}})
    assert config.evaluation.holdout_ratio is None
    assert config.dataset.validation.split_ratio is None
    assert config.dataset.validation.built_split_ratio == 0.1


def rollout(**values: Any) -> Any:
    return {"deployment": {"rollout": values}}


def test_strategy_is_another_name_of_the_rollouts_kind() -> None:
    assert parse_config({"deployment": {"strategy": "shadow"}}).deployment.rollout.kind == "shadow"
    assert parse_config(rollout(kind="ab")).deployment.strategy is None
    found = problem({"deployment": {"strategy": "ab", "rollout": {"kind": "canary"}}})
    assert found == "deployment.strategy: is ab, but deployment.rollout.kind is canary; keep one."


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("ab", "steps", [5]),
        ("ab", "dwell_s", 5.0),
        ("canary", "percent", 5),
        ("shadow", "metric", "latency"),
        ("blue_green", "max_requests", 9),
        ("blue_green", "guards", {"max_error_ratio": 2}),
        ("blue_green", "guards", {"max_latency_ratio": None}),
    ],
)
def test_what_a_kind_of_rollout_does_not_use_is_refused(kind: Any, key: Any, value: Any) -> None:
    found = problem(rollout(kind=kind, **{key: value}))
    assert f"has no effect with deployment.rollout.kind {kind}" in found
    for name in {"canary", "ab", "shadow"} if key == "guards" else ():
        parse_config(rollout(kind=name, guards=value))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"steps": [5, 50, 25]}, "steps: must rise, and are 5, 50, 25."),
        ({"steps": [5, 5]}, "must rise"),
        ({"steps": []}, "steps: must be"),
        ({"steps": [0]}, "must be"),
        ({"kind": "ab", "percent": 100}, "percent: is 100, which leaves nothing to compare with."),
        ({"kind": "ab", "max_requests": 100}, "is 100, too few for deployment.rollout.min_requests, which is 100 for"),
        ({"guards": {"metrics": {"accuracy": "good"}}}, "must be a comparison such as"),
    ],
)
def test_a_rollout_that_means_nothing_is_refused(values: Any, says: Any) -> None:
    assert says in problem(rollout(**values))
