"""A model in the format of OpenVINO or MLX was measured in its runtime; no engine of ours takes it for its own."""

import json

import pytest
import torch
from family_models import write_family_model

from llamafarm_ray.errors import InputError, IntegrityError, UnsupportedError
from llamafarm_ray.models.convert.exports import mlx_file, openvino_file
from llamafarm_ray.models.folder import check_base_model, weight_formats
from llamafarm_ray.registry import BaseModel, RegistryService
from llamafarm_ray.serving.engines.choice import choose_engine
from llamafarm_ray.storage import Location, Manifest
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.inspection.inspect_model import inspect_model
from llamafarm_ray.workflows.models import mlx_runtime
from llamafarm_ray.workflows.models.convert import convert
from llamafarm_ray.workflows.versions.register import Registration, register, stated


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_family_model(tmp_path_factory.mktemp("other-runtimes") / "base", "llama")


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"), principal="ann")


@pytest.mark.parametrize(("target", "module"), [("openvino", openvino_file), ("mlx", mlx_file)])
def test_the_extra_is_named_where_its_library_is_not_installed(base, registry, tmp_path, monkeypatch, target, module):
    monkeypatch.setattr(module, "_LIBRARIES", ("no_such_library",))
    with pytest.raises(UnsupportedError, match="which is not installed") as caught:
        convert(registry, str(base), tmp_path / "out", to=target)
    assert f"llamafarm_ray[{target}]" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_openvino_answers_as_the_source(base, registry, tmp_path):
    pytest.importorskip("openvino", reason="needs llamafarm_ray[openvino]")
    register(registry, Registration(base, name="tiny"))
    made = convert(registry, "tiny", tmp_path / "out", to="openvino", precision="fp16")
    assert made.difference["greedy_agreement"] > 0.95
    assert 0 < made.difference["mean_kl"] < 0.001
    names = {path.name for path in made.path.iterdir()}
    assert {"openvino_model.xml", "openvino_model.bin", "config.json", "tokenizer.json", "conversion.json"} <= names
    assert not any("layers" in name or "onnx" in name for name in names)
    assert "openvino" in json.loads((made.path / "conversion.json").read_text())["tools"]
    record = register(registry, Registration(made.path, name="tiny-openvino", facts=stated(base_model=made.base_model)))
    assert record.registered.kind is ModelKind.QUANTIZED
    assert record.registered.derived_from == (registry.resolve("tiny").registered.manifest,)
    assert (registry.pull(record.ref) / "openvino_model.bin").is_file()


def test_mlx_is_told_positions_and_experts_by_their_older_names():
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0}
    config = {"model_type": "qwen3_moe", "rope_parameters": rope, "num_local_experts": 4, "rope_scaling": None}
    found = mlx_file._older_names(config)
    assert (found["rope_theta"], found["num_experts"]) == (500000.0, 4)
    assert found["rope_scaling"] == {**rope, "type": "llama3"}
    plain = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "rope_theta": 5.0}
    assert not mlx_file._older_names(plain).keys() & {"rope_scaling", "rope_theta", "num_experts"}
    two = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    found = mlx_file._older_names({"rope_parameters": two})
    assert (found["rope_theta"], found["rope_local_base_freq"]) == (1e6, 1e4)


# One family whose positions are scaled, one whose layers MLX keeps in a list of its own, and one with experts.
@pytest.mark.long
@pytest.mark.parametrize("family", ["llama 3", "qwen2", "gemma3", "qwen3_moe"])
def test_mlx_computes_families_as_transformers_does(registry, tmp_path, family):
    pytest.importorskip("mlx_lm", reason="needs llamafarm_ray[mlx]")
    source = write_family_model(tmp_path / "source", family)
    assert convert(registry, str(source), tmp_path / "out", to="mlx").difference["greedy_agreement"] == 1.0


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-6), ("bf16", 0.01), ("int8", 0.02)])
def test_mlx_answers_as_the_source(base, registry, tmp_path, precision, bound):
    pytest.importorskip("mlx_lm", reason="needs llamafarm_ray[mlx]")
    register(registry, Registration(base, name="tiny"))
    made = convert(registry, "tiny", tmp_path / "out", to="mlx", precision=precision)
    assert made.difference["mean_kl"] < bound
    assert made.difference["worst_layer_error"] < 0.1
    config = json.loads((made.path / "config.json").read_text())
    assert config.get("quantization", {}).get("bits") == {"int8": 8}.get(precision)
    assert weight_formats(made.path) == (("mlx",) if precision == "int8" else ("safetensors",))
    record = register(registry, Registration(made.path, name="tiny-mlx", facts=stated(base_model=made.base_model)))
    assert record.registered.kind is (ModelKind.QUANTIZED if precision == "int8" else ModelKind.BASE)
    assert record.registered.derived_from == (registry.resolve("tiny").registered.manifest,)


def test_what_answers_differently_in_mlx_does_not_appear(base, registry, tmp_path, monkeypatch):
    pytest.importorskip("mlx_lm", reason="needs llamafarm_ray[mlx]")
    real = mlx_runtime.write_mlx_model

    def write_broken(source, folder, precision):
        from safetensors.torch import load_file, save_file

        real(source, folder, precision)
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.1.mlp.down_proj.weight"] *= 3
        save_file(weights, folder / "model.safetensors", metadata={"format": "mlx"})

    monkeypatch.setattr(mlx_runtime, "write_mlx_model", write_broken)
    with pytest.raises(IntegrityError, match=r"in mlx at fp32 differs too much.*Layer 1 adds most"):
        convert(registry, str(base), tmp_path / "out", to="mlx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["openvino", "mlx"])
def test_no_engine_serves_them(registry, tmp_path, target):
    folder = folder_of(target, tmp_path / "model")
    assert weight_formats(folder) == (target,)
    base = BaseModel("tiny", "tiny", folder, Manifest.of_folder(folder).digest)
    with pytest.raises(UnsupportedError, match=f"in the format of {target}, which no engine serves"):
        choose_engine("auto", base, [], registry)


def test_floats_that_mlx_wrote_are_those_of_any_safetensors_file(tmp_path):
    folder = folder_of("mlx", tmp_path / "model")
    (folder / "config.json").write_text("{}")
    assert weight_formats(folder) == ("safetensors",)


def test_integers_that_mlx_packed_are_no_base_model_and_no_engine_is_named_for_them(registry, tmp_path):
    folder = folder_of("mlx", tmp_path / "model")
    with pytest.raises(InputError, match="weights that MLX packed"):
        check_base_model(folder)
    found = inspect_model(registry, str(folder))
    assert (found.served_by, found.trained_by) == ((), ())


def test_an_openvino_model_is_not_called_a_pickle(registry, tmp_path):
    folder = folder_of("openvino", tmp_path / "model")
    with pytest.raises(InputError, match="is an OpenVINO model"):
        inspect_model(registry, str(folder))


def folder_of(target, folder):
    """A folder with the weights of a format."""
    from safetensors.torch import save_file

    folder.mkdir()
    if target == "mlx":
        save_file({"weight": torch.zeros(2)}, folder / "model.safetensors", metadata={"format": "mlx"})
        (folder / "config.json").write_text('{"quantization": {"group_size": 64, "bits": 4}}')
    else:
        (folder / "openvino_model.xml").write_text('<?xml version="1.0"?>\n<net name="model" version="11">\n</net>\n')
        (folder / "openvino_model.bin").write_bytes(bytes(8))
    return folder
