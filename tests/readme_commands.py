"""The commands of README's section on clusters, for tests that type them."""

from __future__ import annotations

import shlex
from pathlib import Path

__all__ = ["commands", "exports", "readme"]

README = Path(__file__).resolve().parents[1] / "README.md"
_THEIRS = {"file": "cluster.yaml", "model": "meta-llama/Llama-3.1-8B-Instruct", "config": "serve_configs/gpu.yaml"}


def commands() -> list[str]:
    """Return the section's command lines in their order, each on one line, with its comment."""
    section = README.read_text(encoding="utf-8").partition("## On a cluster")[2].partition("\n## ")[0]
    blocks = section.split("```")[1::2]
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def exports() -> dict[str, str]:
    """Return the variables that the section exports."""
    words = [shlex.split(line, comments=True) for line in commands() if line.startswith("export ")]
    return dict(word.split("=", 1) for line in words for word in line[1:])


def readme(begins: str, **others: str) -> list[str]:
    """Return the words of the one command in the section that begins so.

    Args:
        begins: its first words.
        others: replacements for README's `file`, `model` or `config`.
    """
    (line,) = [line for line in commands() if line.startswith(begins)]
    words = shlex.split(line, comments=True)
    for name, ours in others.items():
        theirs = _THEIRS[name]
        assert any(theirs in word for word in words), f"README's {begins} has no {theirs}"
        words = [word.replace(theirs, ours) for word in words]
    return words
