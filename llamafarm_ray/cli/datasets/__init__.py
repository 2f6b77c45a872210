"""``llamafarm datasets``: look at datasets, check, convert, compare, merge and register them."""

from __future__ import annotations

import typer

from llamafarm_ray.cli.datasets import diff, export, list_datasets, merge, register, sample, show, tokenize, validate

__all__ = ["app"]

app = typer.Typer(help="Look at datasets, check, convert, compare, merge and register them.", no_args_is_help=True)
app.command("list")(list_datasets.command)
app.command("show")(show.command)
app.command("sample")(sample.command)
app.command("validate")(validate.command)
app.command("diff")(diff.command)
app.command("export")(export.command)
app.command("register")(register.command)
app.command("merge")(merge.command)
app.command("tokenize")(tokenize.command)
