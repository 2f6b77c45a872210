"""A home, folders to register, and the command line."""

import json
import shutil

import pytest
from tiny_adapters import write_adapter, write_base

from llamafarm_ray.cli import terminal
from llamafarm_ray.cli.main import run


def make_folders(folder):
    """A base and two adapters on it."""
    base = write_base(folder / "base")
    for number in (1, 2):
        adapter = write_adapter(folder / f"v{number}", base, seed=number)
        lineage = {"parameters": {"r": 8 * number, "alpha": 16}}
        (adapter / "training.json").write_text(json.dumps({"method": "lora", "lineage": lineage}))
    (folder / "v2" / "notes.txt").write_text("better")
    results = {"evaluation_results": {"benchmarks": {"medical_qa": {"accuracy": 0.89}}}}
    (folder / "eval.json").write_text(json.dumps(results))


def enter(folder, monkeypatch):
    """Have commands run in a folder, with their home below it."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LLAMAFARM_HOME", str(folder / "home"))
    monkeypatch.setenv("LLAMAFARM_PRINCIPAL", "ann")
    monkeypatch.setattr(terminal.console, "_width", 140)  # it read COLUMNS when it was made
    for name in ("LLAMAFARM_TOKEN", "LLAMAFARM_CACHE", "LLAMAFARM_CACHE_MAX"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A base and two adapters on it, in the folder that commands run in."""
    make_folders(tmp_path)
    enter(tmp_path, monkeypatch)
    return tmp_path


class CommandLine:
    """Runs command lines in this process."""

    def __init__(self, capsys):
        self._capsys = capsys

    def text(self, *arguments):
        """What a command that succeeds prints."""
        status, out, err = self.run(*arguments)
        assert status == 0, err
        return out

    def json(self, *arguments):
        """What a command that succeeds prints for programs."""
        return json.loads(self.text(*arguments, "--json"))

    def error(self, *arguments, status=2):
        """The error of a command that fails."""
        got, _, err = self.run(*arguments, "--json")
        assert got == status, err
        return json.loads(err)["error"]

    def run(self, *arguments):
        """Exit status, standard output and standard error."""
        self._capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        shown = self._capsys.readouterr()
        return status, shown.out, shown.err


@pytest.fixture
def llamafarm(folders, capsys):
    """The command line, in a folder with models and an empty home."""
    return CommandLine(capsys)


@pytest.fixture(scope="session")
def registered(tmp_path_factory):
    """A home with ``base:1.0.0``, ``bot:1.0.0`` and ``bot:1.1.0``, to copy."""
    folder = tmp_path_factory.mktemp("registered")
    make_folders(folder)
    common = ["--name", "bot", "--base-model", "base", "--domain", "medical", "--tag", "qa"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        enter(folder, monkeypatch)
        assert run(["models", "import", "base", "--license", "MIT"]) == 0
        assert run(["models", "register", "--model", "v1", *common, "--license", "MIT", "--dataset", "qa_v1"]) == 0
        assert run(["models", "register", "--model", "v2", *common, "--performance-metrics", "eval.json"]) == 0
    return folder / "home"


@pytest.fixture
def bot(llamafarm, folders, registered):
    """The command line with ``base:1.0.0``, ``bot:1.0.0`` and ``bot:1.1.0``."""
    shutil.copytree(registered, folders / "home", dirs_exist_ok=True)
    return llamafarm
