"""The options that the verbs of datasets share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Format", "Reference"]

Reference = Annotated[
    str, typer.Argument(metavar="DATASET", help="A path, or a registered dataset: NAME or NAME@DIGEST.")
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", help="chatml, sharegpt, alpaca, prompt_completion, preference, kto or text, as the rows allow."
    ),
]
