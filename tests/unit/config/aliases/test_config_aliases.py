"""Every other spelling is read, everywhere it says it is, and means what the table says."""

from typing import Any

import pytest

from llamafarm_ray.config import ALIASES, Config, parse_config
from llamafarm_ray.config.aliases.alias import NOTHING, Undecided
from llamafarm_ray.config.aliases.dialects import DIALECTS
from llamafarm_ray.config.layout import SHORTHANDS, layout
from llamafarm_ray.errors import ConfigError

SAMPLES = {
    # A value for each kind of target that differs from its default.
    "base_model": "some/model",
    "seed": 7,
    "cluster.address": "auto",
    "home": "/somewhere",
    "fine_tuning.method": "lora",
    "fine_tuning.objective": "dpo",
    "fine_tuning.parameters.r": 8,
    "fine_tuning.parameters.lora_alpha": 64,
    "fine_tuning.parameters.lora_dropout": 0.25,
    "fine_tuning.parameters.target_modules": ["q_proj"],
    "fine_tuning.parameters.use_rslora": True,
    "fine_tuning.parameters.use_dora": True,
    "fine_tuning.parameters.double_quantization": False,
    "fine_tuning.parameters.quantization_type": "fp4",
    "fine_tuning.training.epochs": 2.0,
    "fine_tuning.training.max_steps": 5,
    "fine_tuning.training.batch_size": 2,
    "fine_tuning.training.gradient_accumulation_steps": 8,
    "fine_tuning.training.learning_rate": 1e-5,
    "fine_tuning.training.lr_scheduler": "linear",
    "fine_tuning.training.warmup_steps": 10,
    "fine_tuning.training.warmup_ratio": 0.5,
    "fine_tuning.training.weight_decay": 0.1,
    "fine_tuning.training.max_grad_norm": 0.3,
    "fine_tuning.training.max_length": 512,
    "fine_tuning.training.precision": "bf16",
    "fine_tuning.training.gradient_checkpointing": True,
    "fine_tuning.training.padding_free": True,
    "fine_tuning.training.checkpoint_every_steps": 50,
    "fine_tuning.training.keep_checkpoints": 3,
    "fine_tuning.training.log_every_s": 2.0,
    "fine_tuning.distributed.strategy": "ddp",
    "fine_tuning.distributed.workers": 2,
    "fine_tuning.distributed.gpus": 2,
    "fine_tuning.distributed.nodes": 2,
    "dataset.path": "data.jsonl",
    "dataset.validation.split_ratio": 0.3,
    "evaluation.benchmarks": ["mmlu"],
    "evaluation.max_examples": 9,
    "monitoring.mlflow_uri": "http://tracker",
    "monitoring.wandb_project": "project",
    "monitoring.tensorboard": False,
    "deployment.replicas": 3,
    "deployment.adapters": ["one"],
    "deployment.max_model_len": 64,
    "deployment.max_loras": 2,
    "deployment.max_lora_rank": 128,
    "deployment.engine_kwargs.gpu_memory_utilization": 0.5,
    "deployment.engine_kwargs.enforce_eager": True,
}
SECTION_SAMPLES = {
    "": {"seed": 7},
    "fine_tuning": {"method": "full"},
    "fine_tuning.training": {"epochs": 2.0},
    "fine_tuning.parameters": {"r": 8},
    "dataset": {"path": "data.jsonl"},
    "dataset.quality_control": {"min_quality_score": 0.5},
    "evaluation": {"metrics": ["bleu"]},
    "monitoring": {"tensorboard": False},
    "deployment.auto_scaling": {"max_replicas": 4},
}
KEY_ALIASES = [alias for alias in ALIASES if alias.path not in layout().sections]
SECTION_ALIASES = [alias for alias in ALIASES if alias.path in layout().sections and not alias.refused_always]
PLAIN = [alias for alias in KEY_ALIASES if not alias.refused_always and (not alias.values or alias.others_pass)]


def nest(path: Any, value: Any) -> Any:
    for name in reversed(path):
        value = {name: value}
    return value


def parse_alone(section: Any, name: Any, value: Any) -> Any:
    """A configuration with one key; and a method, where the key is of a tool with another default."""
    table = nest((*section, name), value)
    if not section and any(name in dialect.signs for dialect in DIALECTS):
        table["fine_tuning"] = {"method": "auto"}
    return parse_config(table)


def value_at(config: Any, path: Any) -> Any:
    here = config
    for name in path:
        here = here[name] if isinstance(here, dict) else getattr(here, name)
    return list(here) if isinstance(here, tuple) else here


def label(alias: Any) -> Any:
    return f"{alias.name}->{alias.target}"


@pytest.mark.parametrize("alias", PLAIN, ids=label)
def test_a_plain_alias_is_read_in_each_of_its_sections(alias: Any) -> None:
    sample = "zero2" if alias.name == "deepspeed" else SAMPLES[alias.target]
    expected = "deepspeed_zero2" if alias.name == "deepspeed" else sample
    assert alias.sections
    for section in alias.sections:
        config = parse_alone(section, alias.name, sample)
        assert value_at(config, alias.path) == expected, section


@pytest.mark.parametrize("alias", [alias for alias in KEY_ALIASES if alias.values], ids=label)
def test_an_alias_with_values_translates_each_of_them(alias: Any) -> None:
    for section in alias.sections:
        for written, meant in alias.values.items():
            if isinstance(meant, Undecided):
                continue
            config = parse_alone(section, alias.name, written)
            expected = value_at(Config(), alias.path) if meant is NOTHING else meant
            assert value_at(config, alias.path) == expected, (section, written)


@pytest.mark.parametrize("alias", SECTION_ALIASES, ids=label)
def test_another_place_of_a_section_holds_the_section(alias: Any) -> None:
    sample = SECTION_SAMPLES[alias.target]
    canonical = parse_config(nest(alias.path, sample))
    assert canonical != Config()
    for section in alias.sections:
        assert parse_config(nest((*section, alias.name), sample)) == canonical


@pytest.mark.parametrize("alias", [alias for alias in ALIASES if alias.refused or alias.refused_always], ids=label)
def test_what_can_not_be_translated_is_refused_with_the_reason(alias: Any) -> None:
    cases = dict(alias.refused) or {"anything": alias.refused_always}
    for value, reason in cases.items():
        for section in alias.sections:
            with pytest.raises(ConfigError) as caught:
                parse_config(nest((*section, alias.name), value))
            assert reason in str(caught.value)
            assert ".".join((*section, alias.name)) in str(caught.value)


@pytest.mark.parametrize("alias", [alias for alias in KEY_ALIASES if alias.values and not alias.others_pass], ids=label)
def test_a_value_the_table_does_not_know_is_a_mistake(alias: Any) -> None:
    for value in ("nonsense", ["list"], {"a": 1} if len([a for a in ALIASES if a.name == alias.name]) == 1 else 3.5):
        with pytest.raises(ConfigError, match=alias.name):
            parse_config(nest((*alias.sections[0], alias.name), value))


@pytest.mark.parametrize("alias", [a for a in KEY_ALIASES if None not in a.values and not a.refused_always], ids=label)
def test_an_empty_line_says_nothing(alias: Any) -> None:
    assert parse_config(nest((*alias.sections[0], alias.name), None)) == Config()


def test_every_row_aims_at_something_that_exists_and_hides_nothing() -> None:
    for alias in ALIASES:
        place = alias.path
        assert place in layout().sections or place in layout().leaves or place[:-1] in layout().free, alias
        assert alias.tools
        for section in alias.sections:
            if (*section, alias.name) != alias.path:
                assert alias.name not in layout().names_in(section), f"{alias.name} hides a key of {section}"


def test_no_name_means_two_keys_in_one_section() -> None:
    seen: dict[Any, Any] = {}
    for alias in ALIASES:
        for section in alias.sections:
            key = (section, alias.name, alias.path in layout().sections)
            assert seen.setdefault(key, alias) is alias, f"{alias.name} in {section}"


@pytest.mark.parametrize("path", sorted(SHORTHANDS), ids=".".join)
def test_a_section_may_be_a_plain_text(path: Any) -> None:
    sample = {"path": "data.jsonl", "type": "domain_corpus", "enabled": True}[SHORTHANDS[path]]
    assert parse_config(nest(path, sample)) == parse_config(nest((*path, SHORTHANDS[path]), sample))


@pytest.mark.parametrize(
    ("table", "method"),
    [
        ({"finetuning_type": "lora", "quantization_bit": 4}, "qlora"),
        ({"quantization_bit": 4, "finetuning_type": "lora"}, "qlora"),
        ({"adapter": "lora", "load_in_4bit": True}, "qlora"),
        ({"adapter": "lora", "load_in_8bit": False, "load_in_4bit": False}, "lora"),
        ({"use_peft": True, "load_in_4bit": True}, "qlora"),
        ({"load_in_4bit": False, "fine_tuning": {"method": "full"}}, "full"),
        ({"load_in_4bit": False, "finetuning_type": "lora"}, "lora"),
        ({"adapter": {"type": "lora", "r": 4, "alpha": 8, "dropout": 0.1}}, "lora"),
    ],
)
def test_methods_said_in_two_keys(table: Any, method: Any) -> None:
    assert parse_config(table).fine_tuning.method == method


@pytest.mark.parametrize(
    "table",
    [
        {"load_in_4bit": False, "adapter": "qlora"},
        {"load_in_4bit": False, "method": "auto"},
        {"load_in_4bit": True, "fine_tuning": {"method": "lora"}},
        {"fine_tuning": {"method": "lora"}, "finetuning_type": "lora", "quantization_bit": 4},
        {"bf16": True, "fp16": True},
        {"bf16": False, "fp16": False, "dtype": "bf16"},
        {"bf16": False, "fine_tuning": {"training": {"precision": "bf16"}}},
        {"seed": 1, "data_seed": 2},
        {"deepspeed": "zero2", "zero_stage": 3},
    ],
)
def test_contradictions_name_both_keys(table: Any) -> None:
    with pytest.raises(ConfigError, match="keep one") as caught:
        parse_config(table)
    named = [key for key in table if key in str(caught.value)]
    assert len(named) >= 2


@pytest.mark.parametrize(
    ("table", "precision"),
    [
        ({"bf16": True, "fp16": False}, "bf16"),
        ({"fp16": True, "bf16": False}, "fp16"),
        ({"bf16": False, "fp16": False}, "fp32"),
        ({"bf16": "auto", "fp16": None, "tf32": None} | {}, None),
        ({"bf16": "auto", "fp16": False}, "auto"),
    ],
)
def test_precision_said_in_two_flags(table: Any, precision: Any) -> None:
    if precision is None:
        with pytest.raises(ConfigError, match="tf32: is no known key"):
            parse_config(table)
    else:
        assert parse_config(table).fine_tuning.training.precision == precision


@pytest.mark.parametrize(
    ("written", "meant"),
    [("all", "all-linear"), ("q_proj, v_proj", ("q_proj", "v_proj")), ("q_proj", ("q_proj",)), (["a"], ("a",))],
)
def test_layers_as_one_text(written: Any, meant: Any) -> None:
    assert parse_config({"lora_target": written}).fine_tuning.parameters.target_modules == meant


@pytest.mark.parametrize("written", ["zero3", "ZeRO3", "zero_3", "stage3", "deepspeed_stage_3", "deepspeed_zero3"])
def test_names_of_deepspeed_stages(written: Any) -> None:
    assert parse_config({"deepspeed": written}).fine_tuning.distributed.strategy == "deepspeed_zero3"


@pytest.mark.parametrize("written", ["ds_z3_config.json", "zero4", 3, {"zero_optimization": {"stage": 3}}])
def test_a_deepspeed_file_is_refused(written: Any) -> None:
    with pytest.raises(ConfigError, match="deepspeed: must name a ZeRO stage"):
        parse_config({"deepspeed": written})


def test_a_configuration_of_another_tool() -> None:
    config = parse_config(
        {
            "model_name_or_path": "meta-llama/Llama-3.1-8B",
            "stage": "sft",
            "finetuning_type": "lora",
            "lora_rank": 8,
            "lora_target": "all",
            "cutoff_len": 2048,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 8,
            "learning_rate": 1e-4,
            "num_train_epochs": 3.0,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.1,
            "bf16": True,
            "val_size": 0.1,
        }
    )
    assert config.fine_tuning.method == "lora"
    assert config.fine_tuning.training.max_length == 2048
    assert config.fine_tuning.training.precision == "bf16"


@pytest.mark.parametrize("section", ["", "fine_tuning", "fine_tuning.training"])
@pytest.mark.parametrize("name", ["packing", "sample_packing", "packed"])
def test_filling_sequences_up_is_refused_and_no_packing_is_what_is_done(section: Any, name: Any) -> None:
    path = (*(section.split(".") if section else ()), name)
    assert parse_config(nest(path, False)) == Config()
    with pytest.raises(ConfigError, match=rf"{name}: can't be true: filling sequences up .*padding_free"):
        parse_config(nest(path, True))


def test_no_4_bits_leaves_the_method_open_and_asks_for_it() -> None:
    with pytest.raises(ConfigError, match=r"load_in_4bit: is false, which rules out 4-bit weights, and not more: set"):
        parse_config({"load_in_4bit": False})
    for method in ("lora", "full", "prefix_tuning"):
        assert parse_config({"load_in_4bit": False, "method": method}).fine_tuning.method == method
    assert parse_config({"load_in_4bit": False}, ["fine_tuning.method=full"]).fine_tuning.method == "full"


@pytest.mark.parametrize(
    ("table", "tool", "method"),
    [
        ({"micro_batch_size": 2, "num_epochs": 1}, "Axolotl", "full"),
        ({"sequence_len": 512, "val_set_size": 0.1}, "Axolotl", "full"),
        ({"cutoff_len": 512, "stage": "dpo"}, "LLaMA-Factory", "lora"),
    ],
)
def test_a_method_that_another_tool_would_choose_by_default_has_to_be_said(table: Any, tool: Any, method: Any) -> None:
    with pytest.raises(ConfigError, match=f"is {tool}'s, where leaving out the method means {method}"):
        parse_config(table)
    assert parse_config(table, [f"fine_tuning.method={method}"]).fine_tuning.method == method
    assert parse_config({**table, "adapter": None}).fine_tuning.method == "full"


def test_the_total_batch_of_axolotl_is_not_taken_for_a_workers() -> None:
    axolotl = {"adapter": "lora", "sequence_len": 512}
    with pytest.raises(ConfigError, match=r"batch_size: is the batch of all workers .* set micro_batch_size"):
        parse_config({**axolotl, "batch_size": 64})
    assert parse_config({**axolotl, "micro_batch_size": 2}).fine_tuning.training.batch_size == 2
    assert parse_config({"batch_size": 64}).fine_tuning.training.batch_size == 64, "torchtune's and Ludwig's"
