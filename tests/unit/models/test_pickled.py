"""Pickled weights become safetensors in a process with limits; any other pickle is refused by its imports."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import make_tiny_model

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.convert.pickled import pickled_weights, write_safetensors


class Command:
    """An object whose pickle runs a command when it is loaded."""

    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        return os.system, (self.text,)


@pytest.fixture
def folder(tmp_path):
    """A model whose weights were taken out."""
    made = make_tiny_model(tmp_path / "model")
    weights = load_file(made / "model.safetensors")
    (made / "model.safetensors").unlink()
    return made, weights


def converted(folder, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    write_safetensors(folder, pickled_weights(folder), output)
    return output


def test_a_checkpoint_has_the_same_tensors_afterwards_also_where_they_share_memory(folder, tmp_path):
    made, weights = folder
    whole = torch.arange(12.0).reshape(3, 4)
    more = {"tied": weights["lm_head.weight"], "part": whole[1:], "turned": whole.t(), "number": torch.tensor(7)}
    torch.save({"epoch": 3, "state_dict": weights | more}, made / "pytorch_model.bin")
    torch.save({"lr": 0.1}, made / "training_args.bin")
    output = converted(made, tmp_path)
    found = load_file(output / "model.safetensors")
    assert found.keys() == weights.keys() | more.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in (weights | more).items())
    names = {path.name for path in output.iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".scratch"))]


def test_the_files_of_an_index_become_files_with_an_index(folder, tmp_path):
    made, weights = folder
    files = {"a.bin": sorted(weights)[:5], "b.bin": sorted(weights)[5:]}
    for file, names in files.items():
        torch.save({name: weights[name] for name in names}, made / file, _use_new_zipfile_serialization=False)
    listed = {name: file for file, names in files.items() for name in names}
    (made / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": listed}))
    output = converted(made, tmp_path)
    index = json.loads((output / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == weights.keys()
    assert set(index.values()) == {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    assert all(torch.equal(load_file(output / file)[name], weights[name]) for name, file in index.items())


@pytest.mark.parametrize("new", [True, False])
def test_code_does_not_run_and_its_import_is_named(folder, tmp_path, new):
    made, weights = folder
    torch.save(
        {**weights, "x": Command(f"touch {tmp_path / 'ran'}")},
        made / "pytorch_model.bin",
        _use_new_zipfile_serialization=new,
    )
    with pytest.raises(InputError, match=r"torch's loader for weights refuses it\. It imports: .*posix\.system"):
        converted(made, tmp_path)
    assert not (tmp_path / "ran").exists()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"weight": torch.zeros(1).expand(1 << 40)}, "is not converted: .*memory"),
        ({"weight": torch.zeros(2), "step": 3}, "its entry 'step' is a int, and no tensor"),
        ([torch.zeros(2)], "it holds a list, and no tensors by name"),
        ({"weight": torch.eye(2).to_sparse()}, "sparse"),
    ],
)
def test_what_is_no_set_of_weights_or_asks_for_too_much_is_refused(folder, tmp_path, content, told):
    made, _ = folder
    torch.save(content, made / "pytorch_model.bin")
    with pytest.raises(InputError, match=told):
        converted(made, tmp_path)


def test_the_files_of_weights_have_to_be_clear(folder):
    made, weights = folder
    with pytest.raises(InputError, match="it holds none"):
        pickled_weights(made)
    for name in ("a.bin", "b.pt"):
        torch.save(weights, made / name)
    with pytest.raises(InputError, match=r"it holds a\.bin, b\.pt"):
        pickled_weights(made)
    (made / "model.safetensors").touch()
    with pytest.raises(InputError, match="has safetensors"):
        pickled_weights(made)
