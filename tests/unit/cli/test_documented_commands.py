"""Every command line in README and docs names a verb and options that exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from llamafarm_ray.cli.main import app

ROOT = Path(__file__).parents[3]
COMMANDS = typer.main.get_command(app)


def command_lines(page):
    """The lines of a page's code blocks that call llamafarm, with continued lines joined."""
    for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.removeprefix("$ ").startswith("llamafarm "):
                yield line.removeprefix("$ ")


def mistakes(line):
    """The words of a command line that no command or option has."""
    command = COMMANDS
    for word in shlex.split(line, comments=True)[1:]:
        if word in {"|", "&&", ";", ">"}:
            return
        if hasattr(command, "commands"):
            if word.startswith("-"):
                continue
            alternatives = [command.commands.get(name) for name in word.split("|")]
            if None in alternatives:
                yield word
                return
            command = alternatives[0]
        elif word.startswith("--"):
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            if word.partition("=")[0] not in known | {"--help", "--debug"}:
                yield word


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_commands_in_the_docs_exist(page):
    assert [(line, word) for line in command_lines(page) for word in mistakes(line)] == []


@pytest.mark.parametrize(
    "line", ["llamafarm models chatter", "llamafarm models chat --uri x", "llamafarm models rollout start|stop"]
)
def test_a_command_that_does_not_exist_is_found(line):
    assert list(mistakes(line))
