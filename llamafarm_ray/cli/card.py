"""``llamafarm models card``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from llamafarm_ray.cli.options import Home, Reference
from llamafarm_ray.cli.terminal import say

__all__ = ["command"]


def command(
    reference: Reference,
    output: Annotated[Path | None, typer.Option("--output", help="File to write, such as README.md.")] = None,
    home: Home = None,
) -> None:
    """Write a version's model card: Markdown with a YAML head, from registry and results."""
    from llamafarm_ray.errors import InputError
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.card import model_card

    card = model_card(open_registry(home), reference)
    if output is None:
        sys.stdout.write(card)
        return
    try:
        output.write_text(card, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output} can't be written: {error.strerror}.", hint="Choose another --output.") from None
    say(f"Written to {output}.")
