"""A mistake on the command line costs one clear line, exit status 2, no traceback, no Ray and nothing on disk."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from llamafarm_ray import __version__
from llamafarm_ray.cli.main import app, run

LLAMAFARM = str(Path(sys.executable).with_name("llamafarm"))
THREE_MISTAKES = "nmae: x\nfine_tuning:\n  parameters: {r: -1}\n  training: {epochs: many}\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with some unusable things in it."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "data.json").write_text('[{"instruction": "When?", "output": "Now."}]')
    (tmp_path / "bad.yaml").write_text(THREE_MISTAKES)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.exe").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMAFARM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


MISTAKES = [
    ("create-dataset", "dataset.source.path is not set"),
    ("create-dataset --source missing", "'missing' does not exist"),
    ("create-dataset --source empty", "has no files"),
    ("create-dataset --source docs", "only other files (1 .exe)"),
    ("create-dataset --source docs --format parquet", "parquet"),
    ("train --base-model bare --dataset data.json", "no *.safetensors"),
    ("train --base-model pickled --dataset data.json", "pickle"),
    ("train --base-model bare --dataset nope", "no dataset at 'nope'"),
    ("train --base-model nope --dataset data.json", "no folder and no registered model 'nope'"),
    ("train --dataset data.json", "base_model is not set"),
    ("train --base-model bare", "nothing to train on"),
    ("train --base-model bare --dataset data.json --output empty", "exists already"),
    ("train --config nope.yaml", "no file nope.yaml"),
    ("train --config bad.yaml", "3 mistakes"),
    ("merge --model nope --output out", "no model 'nope'"),
    ("merge --model empty --output out", "adapter_config.json"),
    ("combine nope nope --output out", "no model 'nope'"),
    ("combine nope nope --method tise --output out", "Did you mean ties"),
    ("train --set fine_tuning.method=lorra", "lorra"),
    ("train --set nonsense", "nonsense"),
    ("evaluate --model nope --dataset data.json", "no model 'nope'"),
    ("evaluate --model bare", "nothing to evaluate on"),
    ("evaluate --model bare --custom nothing", "no custom evaluation 'nothing'"),
    ("register --model nope", "no folder nope"),
    ("register --model empty", "neither adapter_config.json nor config.json"),
    ("list --type llamas", "'llamas' is no kind"),
    ("list --filter domain", "no filter"),
    ("list --filter colour=red", "'colour' can't be filtered by"),
    ("deploy --model nope", "no model 'nope'"),
    ("deploy --model bare", "no *.safetensors"),
    ("deploy --model bare --target kubernetes", "deployment.image is not set"),
    ("deploy --model bare --target kubernetes --set deployment.image=x/y:1", "is a folder of this machine, which pods"),
    ("deploy --target kubernetes --address auto", "--address and --no-wait are for Ray clusters"),
    ("deploy --target kubernetes --no-wait", "--address and --no-wait are for Ray clusters"),
    ("deploy --model bare --port 99999", "99999"),
    ("swap-adapter --adapter bot", "Nothing is deployed"),
    ("chat hello", "Nothing is deployed"),
    ("chat hello --model x --url http://127.0.0.1:9/v1", "Nothing answers at http://127.0.0.1:9/v1"),
    ("validate bad.yaml", "3 mistakes"),
    ("validate", "No file was given"),
    ("trian", "Did you mean 'train'"),
    ("register --name bot --version 1.2.0", "--model is missing"),
    ("import", "--model is missing"),
    ("import bare --name ../x", "'../x' can't be a model's name"),
    ("import bare --bump huge", "'huge' is no part of a version"),
    ("push nope bot", "no folder nope"),
    ("push bare bot:one", "'one' is not a semantic version"),
    ("pull nope", "no model 'nope'"),
    ("pull nope --output empty", "no model 'nope'"),
    ("list --filter accuracy>high", "no filter"),
    ("list --at tomorrow", "'tomorrow' is no time"),
    ("list --at 2999-01-01", "has not come yet"),
    ("cache evict --max lots", "'lots' is no size"),
    ("describe nope", "no model 'nope'"),
    ("describe no/pe/x", "is not a model reference"),
    ("history nope", "no model 'nope'"),
    ("diff nope nope", "no model 'nope'"),
    ("trace", "one thing to trace"),
    ("trace --dataset nope", "no dataset 'nope'"),
    ("promote nope", "no model 'nope'"),
    ("promote nope --env ../x", "is no name"),
    ("rollback nope", "no model 'nope'"),
    ("approve nope", "no model 'nope'"),
    ("tag nope", "No tag was given"),
    ("record-metrics nope missing.json", "missing.json can't be read"),
    ("sign nope --key key.pem --password-env NOT_SET", "NOT_SET is not set"),
    ("deprecate nope", "no model 'nope'"),
    ("retire nope", "does not say which version"),
    ("gc --grace soon", "'soon' is no length of time"),
    ("train --bogus", "--bogus"),
]


@pytest.mark.parametrize(("command", "says"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_one_clear_message_and_leaves_nothing(place, capsys, command, says):
    before = sorted(place.rglob("*"))
    assert run(["models", *command.split()]) == 2
    shown = capsys.readouterr()
    assert says in " ".join(shown.err.split())
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert sorted(place.rglob("*")) == before
    if "ray" in sys.modules:
        assert not sys.modules["ray"].is_initialized()


REGISTRY_MISTAKES = [
    ("verify", "There is no registry at"),
    ("verify --head 12", "'12' is no head"),
    ("verify --head 1@sha256:x", "is not a digest"),
    ("audit --since never", "'never' is no time"),
    ("audit --format xml", "'xml' is no format"),
    ("policy set production", "No rule was given"),
    ("policy set production --metric accuracy", "'accuracy' is no rule"),
    ("policy set production --metric >0.8", "'>0.8' is no rule"),
    ("policy set production --metric a>1 --metric a<2", "named twice"),
    ("policy set production --signed-by nope.pem", "nope.pem can't be read"),
    ("policy set production --approvals 999", "approvals is unusable"),
    ("policy set production --clear --approvals 1", "--clear"),
    ("policy set ../x --clear", "is no name"),
    ("policy show ../x", "is no name"),
    ("principal add ann --role king", "'king' is no role"),
    ("principal add ann --role developer", "Say --role admin"),
    ("principal add a/b --role admin", "is no name"),
    ("principal add ann --role admin --namespace ../x", "is no name"),
    ("principal add ann --role admin --expires soon", "'soon' is no time"),
    ("principal grant ann --role admin", "no principal 'ann'"),
    ("principal revoke ann", "no principal 'ann'"),
]


@pytest.mark.parametrize(("command", "says"), REGISTRY_MISTAKES, ids=[command for command, _ in REGISTRY_MISTAKES])
def test_a_mistake_about_the_registry_is_one_clear_message_too(place, capsys, command, says):
    before = sorted(place.rglob("*"))
    assert run(["registry", *command.split()]) == 2
    shown = capsys.readouterr()
    assert says in " ".join(shown.err.split())
    assert shown.out == ""
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense", "127.0.0.1:http", "http://127.0.0.1:8265"])
def test_a_dead_or_malformed_ray_address_is_named(place, capsys, address):
    (place / "docs" / "a.txt").write_text("The bell rings twice.")
    assert run(["models", "create-dataset", "--source", "docs", "--address", address]) == 2
    assert address in capsys.readouterr().err


def test_a_port_in_use_is_named():
    from llamafarm_ray.errors import InputError
    from llamafarm_ray.workflows.deployments.deploy import check_port

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port} can't be used"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_all_mistakes_of_a_file_come_at_once_for_people_and_for_programs(place, capsys):
    assert run(["models", "train", "--config", "bad.yaml"]) == 2
    people = capsys.readouterr().err
    assert run(["models", "train", "--config", "bad.yaml", "--json"]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "invalid_config"
    for key in ("nmae", "fine_tuning.parameters.r", "fine_tuning.training.epochs"):
        assert key in people
        assert key in error["message"]


def test_debug_shows_the_traceback(place):
    command = [LLAMAFARM, "models", "validate", "bad.yaml", "--debug"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" in result.stderr
    assert "ConfigError" in result.stderr


def test_a_fault_of_ours_is_exit_status_1_and_asks_for_a_report(monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("boom")

    monkeypatch.setattr("llamafarm_ray.config.json_schema", broken)
    assert run(["models", "schema"]) == 1
    assert "--debug" in capsys.readouterr().err


def test_dry_run_prints_the_resolved_configuration_and_does_nothing(place, capsys):
    before = sorted(place.rglob("*"))
    assert run(["models", "train", "--dry-run", "--dataset", "nope", "--set", "lora_r=32", "--set", "lr=1e-3"]) == 0
    resolved = json.loads(capsys.readouterr().out)
    assert resolved["fine_tuning"]["parameters"]["r"] == 32
    assert resolved["fine_tuning"]["training"]["learning_rate"] == 1e-3
    assert resolved["dataset"]["path"] == "nope"
    assert sorted(place.rglob("*")) == before


def test_validate_says_that_a_configuration_is_valid(place, capsys):
    (place / "good.yaml").write_text("dataset: {augmentation: true}\n")
    assert run(["models", "validate", "good.yaml"]) == 0
    assert "is valid" in capsys.readouterr().out


def verbs(group, path=()):
    """Every verb below a group, with the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from verbs(command, (*path, name))
        else:
            yield (*path, name), command


def test_every_verb_can_answer_programs_and_says_what_each_option_is():
    found = dict(verbs(typer.main.get_command(app)))
    assert len(found) > 35
    for words, command in found.items():
        options = {name for parameter in command.params for name in parameter.opts}
        assert command.help, words
        assert words == ("models", "schema") or "--json" in options, words
        of_no_home = words[-1] in {"schema", "validate"} or words[0] in {"up", "down", "cluster"}
        assert of_no_home or "--home" in options, words
        assert all(parameter.help for parameter in command.params if parameter.name != "help"), words


def test_help_imports_nothing_heavy():
    heavy = (
        "ray",
        "torch",
        "transformers",
        "llamafarm_ray.config",
        "llamafarm_ray.registry",
        "pyarrow",
        "fsspec",
        "openai",
    )
    code = (
        "import sys; from llamafarm_ray.cli.main import run; run(['models', 'train', '--help']);"
        f"sys.exit(', '.join(name for name in {heavy!r} if name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""
    assert "Fine-tune a base model" in result.stdout


def test_the_version_is_printed(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("verb", [("models", "schema"), ("models", "validate", "--help")])
def test_a_reader_that_leaves_ends_a_command_as_sigpipe_does_and_without_a_word(verb):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run([LLAMAFARM, *verb], stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")
