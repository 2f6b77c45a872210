"""Adapters of every method that the installed peft has are served as by peft itself, or refused in words."""

import asyncio
import warnings
from dataclasses import fields

import pytest
import torch
from engine_answers import answer, generate, tokens
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.config import KasaConfig, MontecloraConfig, VeloraConfig
from tiny_adapters import change_config, write_adapter
from tiny_model import make_tiny_model
from transformers import AutoModelForCausalLM

from llamafarm_ray.errors import DeploymentError, LlamaFarmError, UnsupportedError
from llamafarm_ray.registry import RegistryService, find_base
from llamafarm_ray.serving.engines.choice import choose_engine
from llamafarm_ray.serving.engines.transformers import transformers_engine
from llamafarm_ray.storage import Location
from llamafarm_ray.workflows.models.merge import merge
from llamafarm_ray.workflows.versions.register import Registration, register, stated

pytestmark = pytest.mark.filterwarnings("ignore")  # of peft, about training

LINEAR = ["q_proj", "v_proj"]
PROMPT = [5, 40, 77, 300, 12]
PREFIX = {"num_virtual_tokens": 2}
SETTINGS = {
    "ADALORA": {"total_step": 10},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 1, "target_modules": None},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 4},
    "CARTRIDGE": PREFIX,
    "CPT": {"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
    "FOURIERFT": {"n_frequency": 10},
    "IA3": {"feedforward_modules": []},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "MULTITASK_PROMPT_TUNING": {**PREFIX, "num_tasks": 1},
    "OFT": {"r": 0, "oft_block_size": 4},
    "PREFIX_TUNING": PREFIX,
    "PROMPT_TUNING": PREFIX,
    "P_TUNING": {**PREFIX, "encoder_hidden_size": 8},
    "ROAD": {"group_size": 8},
    "TRAINABLE_TOKENS": {"token_indices": [1, 2], "target_modules": None},
    "UNILORA": {"theta_d_length": 64},
    "VBLORA": {"vector_length": 4, "num_vectors": 8, "topk": 2},
    "WAVEFT": {"n_frequency": 16},
}
"""Settings without which a method does not start, or fits no model as small as this one."""
NOT_MADE = {"ADAMSS", "XLORA", "SHADOW"}
"""Methods that need another package or further models; their configuration alone is written."""
REFUSED = {
    "ADAMSS": "need a package that is not installed",
    "ADAPTION_PROMPT": "no engine serves",
    "BOFT": "can't be proved",
    "CARTRIDGE": "no engine serves",
    "CPT": "no engine serves",
    "FROD": "positions of weights",
    "MULTITASK_PROMPT_TUNING": "no engine serves",
    "POLY": "name one of its tasks",
    "PROMPT_TUNING": "no engine serves",
    "P_TUNING": "no engine serves",
    "SHADOW": "names other models",
    "SHIRA": "positions of weights",
    "SUPERTUNING": "positions of weights",
    "UNILORA": "can't be proved",
    "XLORA": "names other models",
}
LORA = {
    "DoRA": {"use_dora": True},
    "EVA": {"init_lora_weights": "eva"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "MiCA": {"init_lora_weights": "mica"},
    "VeLoRA": {"velora_config": VeloraConfig()},
    "QALoRA": {"use_qalora": True, "qalora_group_size": 8},
    "replicated layers": {"layer_replication": [[0, 2], [1, 2]]},
    "bias of the update": {"lora_bias": True},
}
LORA_REFUSED = {
    "KaSA": ({"kasa_config": KasaConfig()}, "cuts the base model's weights"),
    "KaSA in one layer": ({"kasa_config": KasaConfig(), "layers_to_transform": [1]}, "cuts the base model's weights"),
    "Monte Carlo": ({"monteclora_config": MontecloraConfig()}, "draws its weights anew"),
    "aLoRA": ({"alora_invocation_tokens": [1, 2]}, "activated LoRA"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "stand on a base model that this initialisation changed"),
}
WRITTEN = {
    "LoRA-GA": ({"init_lora_weights": "lora_ga"}, "stand on a base model"),
    "Arrow": ({"arrow_config": {"top_k": 1}}, "routes between other adapters"),
    "Megatron": ({"megatron_config": {"a": 1}, "megatron_core": "megatron.core"}, "layers of Megatron"),
    "VB-LoRA's indices": ({"peft_type": "VBLORA", "save_only_topk_weights": True}, "indices instead of weights"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("kinds") / "base")


@pytest.fixture(scope="module")
def plain(base):
    return generate(AutoModelForCausalLM.from_pretrained(base).eval(), PROMPT)


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"), principal="ann")


def saved(base, folder, config):
    """A folder that peft saves of an adapter whose weights are as after some training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad and parameter.is_floating_point():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(folder)
    return folder


def of_type(base, folder, name):
    if name in NOT_MADE:
        return write_adapter(folder, base, peft_type=name, adapters={}, hidden_size=64)
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[name]]
    targets = {"target_modules": LINEAR} if "target_modules" in {one.name for one in fields(kind)} else {}
    return saved(base, folder, kind(**{"task_type": "CAUSAL_LM", **targets, **SETTINGS.get(name, {})}))


def served(registry, base, folder, plain):
    """Register an adapter, choose its engine, and compare its answer with that of plain peft."""
    record = register(registry, Registration(folder, name="bot", facts=stated(base_model=str(base))))
    engine = choose_engine("auto", find_base(str(base), registry), [record.ref], registry)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right = generate(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval(), PROMPT)

    async def scenario():
        running = transformers_engine("tiny", base)
        await running.load_adapter("bot", folder)
        assert tokens(await answer(running, "bot", PROMPT)) == right
        assert tokens(await answer(running, "tiny", PROMPT)) == plain

    asyncio.run(scenario())
    return engine


def is_merged_or_refused(registry, base, folder, output):
    """Merge an adapter; a refusal in words is as good."""
    try:
        merge(registry, str(folder), output, base_model=str(base))
    except UnsupportedError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", sorted(one.name for one in PeftType))
def test_every_type_of_peft_is_served_as_by_peft_or_refused(registry, base, plain, tmp_path, name):
    folder = of_type(base, tmp_path / "adapter", name)
    if name in REFUSED:
        with pytest.raises(LlamaFarmError, match=REFUSED[name]) as refused:
            register(registry, Registration(folder, name="bot", facts=stated(base_model=str(base))))
        assert "does not fit" not in str(refused.value)
        assert not registry.state.models
    else:
        assert served(registry, base, folder, plain) == ("vllm" if name == "LORA" else "transformers")
    said = is_merged_or_refused(registry, base, folder, tmp_path / "merged")
    assert (said == "") == (name == "LORA"), said


@pytest.mark.parametrize("name", LORA)
def test_every_form_of_lora_is_served_as_by_peft(registry, base, plain, tmp_path, name):
    config = LoraConfig(r=4, target_modules=LINEAR, task_type="CAUSAL_LM", **LORA[name])
    folder = saved(base, tmp_path / "adapter", config)
    on_vllm = name in {"EVA", "orthogonal", "MiCA"}
    assert served(registry, base, folder, plain) == ("vllm" if on_vllm else "transformers")
    said = is_merged_or_refused(registry, base, folder, tmp_path / "merged")
    assert (said != "") == (name in {"replicated layers", "bias of the update"}), said


@pytest.mark.parametrize("name", LORA_REFUSED)
def test_a_form_of_lora_that_would_be_wrong_on_its_base_is_refused(registry, base, tmp_path, name):
    config, message = LORA_REFUSED[name]
    folder = saved(base, tmp_path / "adapter", LoraConfig(r=4, target_modules=LINEAR, task_type="CAUSAL_LM", **config))
    with pytest.raises(LlamaFarmError, match=message):
        register(registry, Registration(folder, name="bot", facts=stated(base_model=str(base))))
    said = is_merged_or_refused(registry, base, folder, tmp_path / "merged")
    assert (said != "") == (name == "aLoRA"), said


@pytest.mark.parametrize("name", WRITTEN)
def test_an_adapter_that_needs_more_than_its_base_is_refused_and_not_merged(registry, base, tmp_path, name):
    config, message = WRITTEN[name]
    folder = write_adapter(tmp_path / "adapter", base, **config)
    with pytest.raises(LlamaFarmError, match=message) as refused:
        register(registry, Registration(folder, name="bot", facts=stated(base_model=str(base))))
    assert "models merge" not in str(refused.value.hint)
    assert is_merged_or_refused(registry, base, folder, tmp_path / "merged")


def test_a_version_that_writes_the_base_when_it_first_computes_is_refused_by_the_engine(base, plain, tmp_path):
    kasa = LoraConfig(r=4, target_modules=LINEAR, task_type="CAUSAL_LM", kasa_config=KasaConfig())
    folder = saved(base, tmp_path / "adapter", kasa)

    async def scenario():
        engine = transformers_engine("tiny", base)
        with pytest.raises(DeploymentError, match="changed the base model's weights"):
            await engine.load_adapter("bot", folder)
        assert tokens(await answer(engine, "tiny", PROMPT)) == plain

    asyncio.run(scenario())


ODD = (None, True, -1, 0, 10**9, 1e300, float("nan"), "thirty", [], ["x"], {"a": 1}, [[1]])


@pytest.mark.parametrize("name", sorted({one.name for one in PeftType} - REFUSED.keys()))
def test_values_of_a_configuration_that_make_no_sense_are_refused_in_words(registry, base, tmp_path, name):
    folder = of_type(base, tmp_path / "adapter", name)
    whole = (folder / "adapter_config.json").read_text()
    odd = {one.name: ODD[number % len(ODD)] for number, one in enumerate(fields(PEFT_TYPE_TO_CONFIG_MAPPING[name]))}
    for key in sorted(odd.keys() - {"peft_type"}):
        (folder / "adapter_config.json").write_text(whole)
        change_config(folder, **{key: odd[key]})
        try:
            register(registry, Registration(folder, name="bot", facts=stated(base_model=str(base))))
        except LlamaFarmError:
            continue
