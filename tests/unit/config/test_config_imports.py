"""Reading a configuration needs no engine."""

import json
import subprocess
import sys


def test_the_configuration_layer_imports_nothing_heavy() -> None:
    code = "import json, sys, llamafarm_ray.config; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert "pydantic" in loaded
    heavy = {"ray", "torch", "transformers", "peft", "deepspeed", "vllm", "pyarrow", "numpy", "fsspec", "typer", "rich"}
    assert not loaded & heavy


def test_the_public_names_exist_once() -> None:
    from llamafarm_ray import config

    assert len(config.__all__) == len(set(config.__all__))  # ruff sorts them
    assert all(hasattr(config, name) for name in config.__all__)
