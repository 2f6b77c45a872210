"""How much of a node a replica reserves where nobody says."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from llamafarm_ray.config import parse_config
from llamafarm_ray.registry import BaseModel
from llamafarm_ray.serving.application import _with_memory
from llamafarm_ray.serving.footprint import replica_memory_bytes
from llamafarm_ray.types import Digest

TURNS = {"auto_scaling": {"min_replicas": 0, "max_replicas": 1}}


@pytest.fixture
def folder(tmp_path):
    """A model of 1,000 x 200 and 300 weights in two files, stored in two bytes each."""
    for name, shape in (("a", (1000, 200)), ("b", (300,))):
        save_file({name: np.zeros(shape, dtype=np.float16)}, tmp_path / f"{name}.safetensors")
    return tmp_path


def taken(folder, engine="transformers", **given):
    return replica_memory_bytes(engine, folder, **{"options": {}, "adapters": 0, "max_rank": 8, **given})


def test_weights_count_in_the_format_that_is_computed_in(folder):
    difference = taken(folder) - taken(folder, options={"dtype": "bfloat16"})
    assert difference == (1000 * 200 + 300) * 2


def test_each_adapter_is_counted_at_its_largest_rank(folder):
    assert taken(folder, adapters=3, max_rank=16) - taken(folder) == 3 * 16 * (1000 + 200) * 4


def test_vllms_cache_is_counted(folder):
    assert taken(folder, "vllm", kv_cache_gib=1.5) - taken(folder, "vllm") == 1.5 * 2**30


def test_files_of_other_formats_are_taken_as_they_are(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"x" * 5_000)
    whole = taken(file, "gguf")
    file.write_bytes(b"x" * 6_000)
    assert taken(file, "gguf") - whole == 1_000
    assert taken(tmp_path, "onnx") > 6_000


def test_what_a_class_of_yours_takes_is_not_known(folder):
    assert taken(folder, "custom") is None


def test_a_folder_without_weights_says_nothing(tmp_path):
    assert taken(tmp_path) is None


def memory(folder, **deployment):
    config = parse_config({"base_model": "base", "deployment": deployment})
    found = _with_memory(config, "vllm", BaseModel("base", "base", folder, Digest.of(b"x")))
    return found.deployment.resources.memory


def test_models_that_take_turns_ask_for_what_they_need(folder, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    assert memory(folder, **TURNS).num_bytes > 3 * 2**30


def test_a_model_that_fits_nowhere_asks_for_the_largest_node(folder, monkeypatch):
    import ray

    sizes = (2**30, 2**31, 2**40)
    nodes = [{"Alive": size < 2**40, "Resources": {"memory": float(size)}} for size in sizes]
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert memory(folder, **TURNS).num_bytes == 2**31


@pytest.mark.parametrize(
    ("deployment", "said"),
    [
        ({}, None),
        ({"auto_scaling": {"min_replicas": 1, "max_replicas": 2}}, None),
        ({**TURNS, "resources": {"gpu": 1}}, None),
        ({**TURNS, "resources": {"memory": "7Gi"}}, "7Gi"),
    ],
)
def test_other_models_and_what_was_said_stay_as_they_are(folder, deployment, said):
    found = memory(folder, **deployment)
    assert (found and found.spelling) == said
