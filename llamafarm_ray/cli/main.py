"""``llamafarm``: where every command starts, and where every error becomes one line and an exit status."""

from __future__ import annotations

import os
import sys

import typer

from llamafarm_ray import __version__
from llamafarm_ray.cli import (
    chat,
    create_dataset,
    deploy,
    evaluate,
    list_models,
    register,
    schema,
    swap_adapter,
    train,
    validate,
)
from llamafarm_ray.cli.terminal import errors, is_json
from llamafarm_ray.errors import LlamaFarmError

__all__ = ["app", "main"]

app = typer.Typer(
    name="llamafarm",
    help="Fine-tune and serve your own language models on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models = typer.Typer(help="Build datasets, train, evaluate, register and serve models.", no_args_is_help=True)
app.add_typer(models, name="models")

models.command("create-dataset")(create_dataset.command)
models.command("train")(train.command)
models.command("evaluate")(evaluate.command)
models.command("register")(register.command)
models.command("list")(list_models.command)
models.command("deploy")(deploy.command)
models.command("swap-adapter")(swap_adapter.command)
models.command("chat")(chat.command)
models.command("validate")(validate.command)
models.command("schema")(schema.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error. May stand anywhere."),
) -> None:
    del version, debug  # an eager callback, and taken out of the arguments by `run`, which is where errors end


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit status: 0, 2 for the user's mistakes, 1 for ours, 130 for Ctrl-C."""
    debug = "--debug" in arguments or os.environ.get("LLAMAFARM_DEBUG") == "1"
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        app(arguments)
    except SystemExit as ended:  # how typer ends, usage errors (2) and Ctrl-C included
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except LlamaFarmError as error:
        if debug:
            raise
        errors.show(error, as_json=is_json(arguments))
        return error.exit_status
    except KeyboardInterrupt:
        errors.line("Stopped.")
        return 130
    except Exception as error:  # the process boundary: nothing above would handle it
        if debug:
            raise
        errors.line(f"This is a fault of llamafarm: {type(error).__name__}: {error}")
        errors.line("Run it again with --debug and report what that prints.")
        return 1
    return 0
