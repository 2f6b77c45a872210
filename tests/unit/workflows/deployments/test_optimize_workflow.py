"""A configuration for this machine is measured, one for another device is predicted and says so."""

import json

import pytest
import yaml
from tiny_model import make_tiny_model

from llamafarm_ray.cli.main import run
from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import ConflictError, DeploymentError, InputError, UnsupportedError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.serving.optimize.speed import Speed
from llamafarm_ray.storage import Location
from llamafarm_ray.workflows.deployments.optimize import MAX_TRIALS, optimize, write_config
from llamafarm_ray.workflows.models.quantize import quantize
from llamafarm_ray.workflows.versions.register import Registration, register


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("optimize") / "base")


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"))


def rates(table):
    """A measurement by engine and dtype; what is not in the table fails."""

    def measure(trial):
        if (trial.engine, trial.dtype) not in table:
            raise DeploymentError(f"Engine {trial.engine} has no kernel.")
        return Speed(0.1, table[trial.engine, trial.dtype])

    return measure


def test_the_fastest_settings_of_this_machine_become_a_configuration(base, registry):
    made = optimize(registry, str(base), measure=rates({("transformers", "float32"): 50.0, ("vllm", "float32"): 80.0}))
    assert made.is_measured
    assert made.config["base_model"] == str(base)
    assert made.config["deployment"]["engine"] == "vllm"
    assert made.config["deployment"]["engine_kwargs"] == {"dtype": "float32"}
    assert made.tokens_per_s == 80.0
    assert parse_config(made.config).deployment.engine == "vllm"
    assert len({row["engine"] for row in made.trials}) == 2


def test_a_registered_quantized_version_that_is_good_enough_is_a_form(base, registry, tmp_path):
    register(registry, Registration(base, name="tiny"))
    quantize(registry, "tiny", tmp_path / "q8", scheme="gguf-q8_0", measure=None)
    register(registry, Registration(tmp_path / "q8", name="tiny-q8"))
    measure = rates({("gguf", None): 200.0, ("vllm", "float32"): 80.0})
    made = optimize(registry, "tiny", concurrency=2, measure=measure)
    assert made.config["base_model"] == "tiny-q8:1.0.0"
    assert made.config["deployment"]["engine_kwargs"]["n_parallel"] == 2
    assert len([row for row in made.trials if row["answer_tokens"] == 8]) <= MAX_TRIALS
    better = optimize(registry, "tiny", min_quality=1.0, measure=measure)
    assert better.config["base_model"] == "tiny"


def test_options_of_the_fastest_engine_are_tried_and_written(base, registry, tmp_path):
    quantize(registry, str(base), tmp_path / "q8", scheme="gguf-q8_0", measure=None)
    tried = []

    def measure(trial):
        tried.append(trial)
        options = dict(trial.options)
        rate = 100.0 * (1.5 if options.get("cache_type") == "q8_0" else 1.0)
        return Speed(0.1 if options.get("n_ubatch") == 128 else 0.2, rate)

    made = optimize(registry, str(tmp_path / "q8"), measure=measure)
    engine_kwargs = made.config["deployment"]["engine_kwargs"]
    assert (engine_kwargs["cache_type"], engine_kwargs["n_ubatch"]) == ("q8_0", 128)
    assert "flash_attention" not in engine_kwargs
    assert made.tokens_per_s == pytest.approx(150.0)
    assert parse_config(made.config).deployment.engine_kwargs["cache_type"] == "q8_0"
    assert "8 bits" in made.notes[0]
    [chosen] = [row for row in made.trials if row["is_chosen"]]
    assert chosen["options"] == {"cache_type": "q8_0", "n_ubatch": 128}
    assert {dict(trial.options).get("flash_attention") for trial in tried} == {None, False}


def test_without_an_engine_that_works_the_reasons_are_told(base, registry):
    with pytest.raises(UnsupportedError, match="Engine vllm has no kernel"):
        optimize(registry, str(base), measure=rates({}))


def test_another_device_is_predicted_and_the_output_says_so(base, registry):
    made = optimize(registry, str(base), target="nvidia-h100", max_model_len=64)
    assert not made.is_measured
    assert "Predicted from the data sheet" in made.notes[0]
    assert made.config["deployment"] == {
        "engine": "vllm",
        "max_model_len": 64,
        "resources": {"gpu": "1x_h100"},
        "engine_kwargs": {"dtype": "bfloat16"},
    }


def test_a_form_that_the_device_needs_is_proposed_with_the_command_that_makes_it(base, registry):
    made = optimize(registry, str(base), target="apple-m3")
    assert made.config["deployment"]["engine"] == "gguf"
    assert made.config["base_model"] == "./gguf-q8_0"
    assert f"llamafarm models quantize {base} --scheme gguf-q8_0 --output gguf-q8_0" in made.notes[1]


def test_what_fits_nowhere_and_unknown_targets_are_refused(base, registry):
    with pytest.raises(InputError, match=r"No form of .* fits on NVIDIA T4"):
        optimize(registry, str(base), target="nvidia-t4", max_model_len=256, concurrency=10**6)
    with pytest.raises(InputError, match="no device 'abacus'"):
        optimize(registry, str(base), target="abacus")
    with pytest.raises(InputError, match="concurrency is 0"):
        optimize(registry, str(base), concurrency=0)


def test_the_command_writes_yaml_that_deploy_reads_and_overwrites_nothing(base, tmp_path, capsys):
    output, home = tmp_path / "deploy.yaml", ["--home", str(tmp_path / "home")]
    command = ["models", "optimize", str(base), "--target", "cpu-avx512", "--output", str(output), *home]
    assert run(command) == 0
    assert "Predicted for cpu-avx512" in capsys.readouterr().out
    assert parse_config(yaml.safe_load(output.read_text())).deployment.engine == "vllm"
    assert run(["models", "deploy", "--config", str(output), "--dry-run"]) == 0
    capsys.readouterr()
    assert run(command) == 2
    assert run(["models", "optimize", str(base), "--target", "nvidia-l4", "--json", *home]) == 0
    assert json.loads(capsys.readouterr().out)["is_measured"] is False


def test_a_file_that_is_there_is_kept(base, registry, tmp_path):
    made = optimize(registry, str(base), target="nvidia-l4")
    write_config(made, tmp_path / "a.yaml", overwrite=False)
    with pytest.raises(ConflictError):
        write_config(made, tmp_path / "a.yaml", overwrite=False)


def test_a_quantized_model_is_called_so_and_is_not_quantized_again(base, registry, tmp_path):
    quantize(registry, str(base), tmp_path / "int4", scheme="int4", measure=None)
    made = optimize(registry, str(tmp_path / "int4"), target="cpu-avx2", max_model_len=64)
    assert [row["form"] for row in made.trials] == ["quantized"]
    assert made.config["deployment"]["engine_kwargs"] == {"dtype": "bfloat16"}
    with pytest.raises(InputError, match="No engine serves the files of"):
        optimize(registry, str(tmp_path / "int4"), target="apple-m3")
