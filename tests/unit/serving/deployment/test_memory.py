"""What a replica is said to take of a node's memory, and who reserves it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_model import make_tiny_model
from transformers import AutoModelForCausalLM

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import BaseModel
from llamafarm_ray.serving.deployment.memory import (
    check_memory,
    kv_cache_environment,
    largest_node_bytes,
    memory_need,
    with_memory,
)
from llamafarm_ray.types import Digest

GIB = 2**30


def base_of(folder):
    return BaseModel(str(folder), "tiny", Path(folder), Digest("sha256:" + 64 * "0"))


def deployment(**said):
    return parse_config({"base_model": "tiny", "deployment": said}).deployment


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_of(make_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def num_parameters(base):
    return sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(base.folder).parameters())


@pytest.fixture
def half(base, tmp_path):
    """The same weights in bfloat16, as most models are published."""
    AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    return base_of(tmp_path / "half")


@pytest.mark.parametrize(("dtype", "num_bytes"), [(None, 4), ("float32", 4), ("bfloat16", 2), ("half", 2)])
def test_weights_count_in_the_dtype_that_the_engine_computes_in(half, num_parameters, dtype, num_bytes):
    options = {"engine_kwargs": {"dtype": dtype}} if dtype else {}
    need = memory_need("transformers", half, deployment(**options))
    assert need.weights_bytes == num_parameters * num_bytes
    assert need.num_bytes == need.weights_bytes + need.process_bytes


def test_vllms_auto_holds_32_bits_in_16(base, half, num_parameters):
    auto = deployment(engine_kwargs={"dtype": "auto"})
    for one in (base, half):
        assert memory_need("vllm", one, auto).weights_bytes == num_parameters * 2


def test_a_second_copy_in_a_hubs_folder_does_not_count(base, num_parameters, tmp_path):
    shutil.copytree(base.folder, tmp_path / "hub")
    shutil.copy(base.folder / "model.safetensors", tmp_path / "hub" / "consolidated.safetensors")
    assert memory_need("vllm", base_of(tmp_path / "hub"), deployment()).weights_bytes == num_parameters * 4
    (tmp_path / "hub" / "model.safetensors").rename(tmp_path / "hub" / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (tmp_path / "hub" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert memory_need("vllm", base_of(tmp_path / "hub"), deployment()).weights_bytes == num_parameters * 4


def test_quantised_weights_count_as_they_are(tmp_path):
    save_file({"q": torch.zeros(8, 8, dtype=torch.uint8), "scale": torch.zeros(8)}, tmp_path / "model.safetensors")
    assert memory_need("transformers", base_of(tmp_path), deployment()).weights_bytes == 8 * 8 + 8 * 4
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    assert memory_need("vllm", base_of(tmp_path), deployment()).weights_bytes == 8 * 8 + 8 * 2


def test_vllm_sets_memory_aside(base, monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    need = memory_need("vllm", base, deployment(max_lora_rank=16, max_loras=4))
    assert need.cache_bytes == GIB
    # Of each of two layers: four projections of 64x64, two of 128x64, one of 64x128; the embeddings and the output.
    vocabulary = json.loads((base.folder / "config.json").read_text())["vocab_size"]
    assert need.slots_bytes == 5 * 16 * (2 * (4 * 128 + 3 * 192) + 2 * (vocabulary + 64)) * 4
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "4")
    assert memory_need("vllm", base, deployment()).cache_bytes == 4 * GIB
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "")
    assert memory_need("vllm", base, deployment()).cache_bytes == GIB


def test_files_of_llama_cpp_and_onnx_count_whole(tmp_path):
    (tmp_path / "bot.gguf").write_bytes(bytes(1000))
    assert memory_need("gguf", base_of(tmp_path / "bot.gguf"), deployment()).weights_bytes == 1000
    (tmp_path / "model.onnx").write_bytes(bytes(10))
    (tmp_path / "model.onnx_data").write_bytes(bytes(500))
    (tmp_path / "model_fp16.onnx").write_bytes(bytes(250))  # another variant, which is not served
    assert memory_need("onnx", base_of(tmp_path), deployment()).weights_bytes == 510


def test_what_nobody_can_know_is_not_guessed(base):
    assert memory_need("custom", base, deployment()) is None
    assert memory_need("vllm", base, deployment(resources={"gpu": 1})) is None
    assert memory_need("vllm", base, deployment(engine_kwargs={"quantization": "fp8"})) is None
    check_memory(None, base, deployment(resources={"gpu": 1, "memory": 1}))


def test_who_takes_turns_reserves_its_need(base):
    turns = deployment(replicas=0, auto_scaling={"min_replicas": 0, "max_replicas": 1})
    need = memory_need("transformers", base, turns)
    assert with_memory(need, turns, need.num_bytes).resources.memory.num_bytes == need.num_bytes
    for stays in (deployment(), deployment(auto_scaling={"min_replicas": 1, "max_replicas": 2})):
        assert with_memory(need, stays, need.num_bytes) is stays
    said = turns.model_copy(update={"resources": deployment(resources={"memory": "32Gi"}).resources})
    assert with_memory(need, said, need.num_bytes) is said
    assert with_memory(None, turns, 2**40) is turns


def test_what_no_node_has_is_not_reserved(base, caplog):
    turns = deployment(replicas=0, auto_scaling={"min_replicas": 0, "max_replicas": 1})
    need = memory_need("transformers", base, turns)
    assert with_memory(need, turns, need.num_bytes - 1) is turns
    assert "no node has that much" in caplog.text
    assert with_memory(need, turns, largest_node_bytes()) is turns  # there is no cluster here


def test_less_than_the_weights_take_is_refused(base):
    need = memory_need("transformers", base, deployment())
    weights = f"{need.weights_bytes / 2**20:.0f} MiB"
    with pytest.raises(InputError, match=f"is 1000, and the weights of tiny alone take {weights}") as raised:
        check_memory(need, base, deployment(resources={"memory": 1000}))
    assert "about 513 MiB" in raised.value.hint
    check_memory(need, base, deployment(resources={"memory": need.weights_bytes}))


def test_the_kv_cache_of_vllm_is_what_the_configuration_sets_aside(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    asked = deployment(engine_kwargs={"kv_cache_memory_bytes": 3 * GIB - 1})
    assert kv_cache_environment(asked) == {"VLLM_CPU_KVCACHE_SPACE": "3"}
    assert kv_cache_environment(deployment()) == {"VLLM_CPU_KVCACHE_SPACE": "2"}
