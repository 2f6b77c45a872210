"""``llamafarm models card``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from llamafarm_ray.cli.options import Home, Json, Reference
from llamafarm_ray.cli.terminal import print_json, say

__all__ = ["command"]


def command(
    reference: Reference,
    output: Annotated[Path | None, typer.Option("--output", help="File to write, such as README.md.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write a version's model card: Markdown with a YAML head, from registry and results."""
    from llamafarm_ray.errors import InputError
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.versions.card import model_card

    registry = open_registry(home)
    card = model_card(registry, reference)
    if output is not None:
        try:
            output.write_text(card, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{output} can't be written: {error.strerror}.", hint="Choose another --output.") from None
    if as_json:
        print_json({"model": registry.resolve(reference).ref, "card": card})
    elif output is None:
        sys.stdout.write(card)
    else:
        say(f"Written to {output}.")
