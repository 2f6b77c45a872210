"""``llamafarm``: where every command starts, and where every error becomes one line and an exit status."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable

import typer
from typer.main import get_command

from llamafarm_ray import __version__
from llamafarm_ray.cli import cluster, datasets, registry, schema, validate
from llamafarm_ray.cli.datasets import create_dataset
from llamafarm_ray.cli.deployments import chat, deploy, health, rollout, simulate, status, swap_adapter, undeploy, usage
from llamafarm_ray.cli.evaluation import evaluate, leaderboard
from llamafarm_ray.cli.models import cache, combine, convert, download, inspect_model, merge, optimize, quantize
from llamafarm_ray.cli.models.download import TransferLine
from llamafarm_ray.cli.terminal import StageProgress, errors, is_json
from llamafarm_ray.cli.training import estimate, train, tune
from llamafarm_ray.cli.versions import aliases, card, inspection, lifecycle, list_models, register, transfer
from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.telemetry.displays import show_downloads
from llamafarm_ray.telemetry.logs import set_up_logs

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

app.add_typer(datasets.app, name="datasets")
app.add_typer(registry.app, name="registry")
app.command("up")(cluster.up)
app.command("down")(cluster.down)
app.add_typer(cluster.app, name="cluster")

_MAKE, _SERVE, _KEEP, _LOOK, _RELEASE = "Make", "Serve", "Keep versions", "Look at versions", "Release"
models.command("create-dataset", rich_help_panel=_MAKE)(create_dataset.command)
models.command("train", rich_help_panel=_MAKE)(train.command)
models.command("tune", rich_help_panel=_MAKE)(tune.command)
models.command("estimate", rich_help_panel=_MAKE)(estimate.command)
models.command("evaluate", rich_help_panel=_MAKE)(evaluate.command)
models.command("merge", rich_help_panel=_MAKE)(merge.command)
models.command("combine", rich_help_panel=_MAKE)(combine.command)
models.command("convert", rich_help_panel=_MAKE)(convert.command)
models.command("quantize", rich_help_panel=_MAKE)(quantize.command)
models.command("validate", rich_help_panel=_MAKE)(validate.command)
models.command("schema", rich_help_panel=_MAKE)(schema.command)
models.command("optimize", rich_help_panel=_SERVE)(optimize.command)
models.command("deploy", rich_help_panel=_SERVE)(deploy.command)
models.command("swap-adapter", rich_help_panel=_SERVE)(swap_adapter.command)
models.command("undeploy", rich_help_panel=_SERVE)(undeploy.command)
models.command("chat", rich_help_panel=_SERVE)(chat.command)
models.command("simulate", rich_help_panel=_SERVE)(simulate.command)
models.command("status", rich_help_panel=_SERVE)(status.command)
models.command("health", rich_help_panel=_SERVE)(health.command)
models.command("usage", rich_help_panel=_SERVE)(usage.usage)
models.command("recommend", rich_help_panel=_SERVE)(usage.recommend)
models.command("register", rich_help_panel=_KEEP)(register.command)
models.command("import", rich_help_panel=_KEEP, help="Register a folder that was made elsewhere.")(register.command)
models.command("download", rich_help_panel=_KEEP)(download.command)
models.command("push", rich_help_panel=_KEEP)(transfer.push)
models.command("pull", rich_help_panel=_KEEP)(transfer.pull)
models.command("record-metrics", rich_help_panel=_KEEP)(lifecycle.record_metrics)
models.command("tag", rich_help_panel=_KEEP)(lifecycle.tag)
models.command("sign", rich_help_panel=_KEEP)(lifecycle.sign)
models.command("deprecate", rich_help_panel=_KEEP)(lifecycle.deprecate)
models.command("retire", rich_help_panel=_KEEP)(lifecycle.retire)
models.command("gc", rich_help_panel=_KEEP)(lifecycle.gc)
models.add_typer(cache.app, name="cache", rich_help_panel=_KEEP)
models.command("list", rich_help_panel=_LOOK)(list_models.command)
models.command("leaderboard", rich_help_panel=_LOOK)(leaderboard.command)
models.command("inspect", rich_help_panel=_LOOK)(inspect_model.command)
models.command("describe", rich_help_panel=_LOOK)(inspection.describe)
models.command("card", rich_help_panel=_LOOK)(card.command)
models.command("history", rich_help_panel=_LOOK)(inspection.history)
models.command("diff", rich_help_panel=_LOOK)(inspection.diff)
models.command("trace", rich_help_panel=_LOOK)(inspection.trace)
models.command("promote", rich_help_panel=_RELEASE)(aliases.promote)
models.command("approve", rich_help_panel=_RELEASE)(aliases.approve)
models.command("rollback", rich_help_panel=_RELEASE)(aliases.rollback)
models.command("unalias", rich_help_panel=_RELEASE)(aliases.unalias)
models.add_typer(rollout.app, name="rollout", rich_help_panel=_RELEASE)


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


_FORKED = {"create-dataset", "evaluate", "train", "tune"}
"""Verbs of `models` that work on Ray and need its libraries."""


@functools.cache
def _parser() -> Callable[[list[str]], object]:
    """Return the parser of all verbs, which takes typer a tenth of a second to make."""
    return get_command(app)


def _download_lines(source: str, *, quiet: bool) -> Callable[[int, int | None], None]:
    """Return a function that prints how far the download of a base model is: when it begins, and now and then."""
    return TransferLine(StageProgress(None, in_lines=not quiet), source)


def main() -> None:
    """The console script."""
    if (status := _run_forked()) is not None:
        sys.exit(status if status >= 0 else 128 - status)
    sys.exit(run(sys.argv[1:]))


def _run_forked() -> int | None:
    """Run this command in a fork of the process that has imported its libraries, where `llamafarm up` has one.

    It saves the eight core seconds in which PyTorch, transformers and PEFT are imported.

    Returns:
        The command's exit status; None where it is to be run here.
    """
    is_script = os.access(sys.argv[0], os.R_OK) and sys.modules["__main__"].__spec__ is None
    if not is_script or sys.argv[1:2] != ["models"] or not _FORKED.intersection(sys.argv[2:3]):
        return None
    from llamafarm_ray.clusters.forked_worker import SOCKET_NAME, SOCKET_VARIABLE, run_forked
    from llamafarm_ray.clusters.standing import find

    ray = None if SOCKET_VARIABLE in os.environ else find()  # a fork has it set
    if ray is None or ray.python != sys.executable:
        return None
    try:
        return run_forked(sys.argv, f"{ray.folder}/{SOCKET_NAME}")
    except KeyboardInterrupt:  # before there was a fork
        errors.line("Stopped.")
        return 130


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit status: 0, 2 for the user's mistakes, 1 for ours, 130 for Ctrl-C."""
    debug = "--debug" in arguments or os.environ.get("LLAMAFARM_DEBUG") == "1"
    arguments = [argument for argument in arguments if argument != "--debug"]
    set_up_logs()
    if "LLAMAFARM_SEALED_TOKEN" in os.environ:  # a job's driver, for which Ray calls no set-up hook
        from llamafarm_ray.clusters.job_token import adopt_token

        adopt_token()
    try:
        with show_downloads(functools.partial(_download_lines, quiet=is_json(arguments))):
            _parser()(arguments)
    except (SystemExit, BrokenPipeError) as ended:  # how typer ends, usage errors (2) and Ctrl-C included
        return _status_of(ended)
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


def _status_of(ended: SystemExit | BrokenPipeError) -> int:
    """Return the exit status of a command that ended early.

    Of one whose reader has left, such as ``head``, it is the one that shells give SIGPIPE; typer and rich say 1, as of
    a failure. Buffered output then goes nowhere: Python would fail once more at its end.
    """
    if isinstance(ended, SystemExit) and not isinstance(ended.__context__, BrokenPipeError):
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    return 128 + signal.SIGPIPE
