"""The example configurations train, through the command line, on real Ray; a submitted job trains the basic one."""

import json
from pathlib import Path

import pytest
from tiny_model import make_tiny_model

from llamafarm_ray.cli.main import run

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


@pytest.fixture(scope="module")
def place(ray_cluster, tmp_path_factory):
    """A tiny base and a dataset made of three documents."""
    folder = tmp_path_factory.mktemp("examples")
    make_tiny_model(folder / "base")
    (folder / "docs").mkdir()
    for name, hour in (("library", "8:00"), ("pool", "9:00"), ("office", "10:00")):
        text = f"The {name} opens at {hour}. The {name} costs 5 euros a day. Ann Bell leads the {name}."
        (folder / "docs" / f"{name}.md").write_text(f"# The {name}\n\n{text}\n")
    dataset = ["--source", str(folder / "docs"), "--output", str(folder / "data"), "--home", str(folder / "home")]
    assert run(["models", "create-dataset", *dataset]) == 0
    return folder


@pytest.mark.parametrize(
    ("name", "files"),
    [
        pytest.param("qlora", {"adapter_config.json", "adapter_model.safetensors"}, marks=pytest.mark.long),
        pytest.param("full", {"config.json", "model.safetensors"}, marks=pytest.mark.long),
        pytest.param("deepspeed", {"adapter_config.json", "adapter_model.safetensors"}, marks=pytest.mark.long),
    ],
)
def test_an_example_configuration_trains_and_registers(ray_cluster, place, monkeypatch, capsys, name, files):
    monkeypatch.chdir(place)
    monkeypatch.setenv("LLAMAFARM_HOME", str(place / "home"))
    options = ["--base-model", "base", "--output", f"out/{name}", "--register", "--json"]
    options += ["--dataset", "data", "--set", "fine_tuning.training.max_steps=2"]
    capsys.readouterr()
    assert run(["models", "train", "--config", str(CONFIGS / f"{name}.yaml"), *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_steps"] == 2
    assert all(loss > 0 for loss in result["losses"])
    assert files <= {path.name for path in (place / "out" / name).iterdir()}
    assert result["version"].endswith(":1.0.0")
