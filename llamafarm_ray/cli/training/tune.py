"""``llamafarm models tune``."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.build_progress import BuildProgress
from llamafarm_ray.cli.jobs import ran_as_job
from llamafarm_ray.cli.options import (
    Address,
    BaseModelReference,
    ConfigFile,
    DatasetFolder,
    DryRun,
    Home,
    Json,
    NoWait,
    Overrides,
    configuration,
    show_resolved,
)
from llamafarm_ray.cli.terminal import StageProgress, begin, console, print_json, say, stages, table
from llamafarm_ray.cli.training.stopping import said_how_to_go_on

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamafarm_ray.config import Config
    from llamafarm_ray.tuning.journal import Record
    from llamafarm_ray.workflows.tuning.tune import TunedModel

__all__ = ["command", "show_sweep", "sweep_lines"]

_SPACE = "tuning.parameters."
_MAX_ROWS = 15


def command(
    config_file: ConfigFile = None,
    dataset: DatasetFolder = None,
    base_model: BaseModelReference = None,
    num_trials: Annotated[int | None, typer.Option("--num-trials", help="Trials in all.")] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="Longest time in all: 30m, 12h, ...")] = None,
    max_concurrent: Annotated[int | None, typer.Option("--max-concurrent", help="Most trials at once.")] = None,
    search: Annotated[str | None, typer.Option("--search", help="optuna, random or grid.")] = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", help="asha, pbt or none.")] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="Deciding metric: validation_loss, train_loss, ...")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="The sweep's folder; tuning/NAME in the home by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace trained_models/NAME.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Forget the sweep that is in the folder.")] = False,
    register_it: Annotated[
        bool, typer.Option("--register", help="Register the best under the config's name; a job always does.")
    ] = False,
    overrides: Overrides = None,
    home: Home = None,
    address: Address = None,
    no_wait: NoWait = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Try many settings, keep the best. Without tuning.parameters it chooses by itself what to try.

    After a kill at any time, the same command resumes.
    """
    flags = {
        "dataset.path": dataset,
        "base_model": base_model,
        "tuning.num_trials": num_trials,
        "tuning.budget": budget,
        "tuning.max_concurrent": max_concurrent,
        "tuning.search": search,
        "tuning.scheduler": scheduler,
        "tuning.metric": metric,
    }
    config = configuration(config_file, whole_keys(overrides or []), flags, home=home, address=address)
    if dry_run:
        _show_dry_run(config)
        return
    if ran_as_job(
        "tune",
        config,
        outputs={"--output": output},
        flags={"--register": True, "--overwrite": overwrite, "--restart": restart},
        no_wait=no_wait,
        as_json=as_json,
    ):
        return
    _tune(config, output, overwrite=overwrite, restart=restart, register_it=register_it, as_json=as_json)


def _tune(
    config: Config, folder: Path | None, *, overwrite: bool, restart: bool, register_it: bool, as_json: bool
) -> None:
    """Run the sweep on a Ray that this process connects to, register the best if asked, and print it."""
    begin("Checking the sweep", quiet=as_json)
    import os

    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.clusters.cluster import connect
    from llamafarm_ray.workflows.tuning.tune import TuningRun, register_tuned

    registry = open_registry(config.home)
    run = TuningRun.prepare(config, registry, folder=folder, overwrite=overwrite, restart=restart)
    with (
        connect(config.cluster.address, on_start=partial(begin, quiet=as_json)) as cluster,
        stages(quiet=as_json) as progress,
        said_how_to_go_on(
            "The same command goes on with the trials that are left" + (", without --restart." if restart else ".")
        ),
    ):
        tuned = run.run(
            cores=os.cpu_count() if cluster.is_local else None,
            on_change=_live(progress, config),
            on_stage=BuildProgress(progress),
            on_note=progress.warn,
        )
    record = register_tuned(registry, config, tuned) if register_it and tuned.path else None
    if as_json:
        print_json(_to_dict(tuned, record.ref if record else None))
        return
    show_sweep(tuned, config.tuning.metric)
    if tuned.path is None:
        say("No trial finished. The same command with a larger --budget resumes them.")
        return
    next_step = (
        f"Registered {record.ref}." if record else f"Register it: llamafarm models register --model {tuned.path}"
    )
    say(f"The best is in {tuned.path}. {next_step}")


def whole_keys(overrides: list[str]) -> list[str]:
    """``tuning.parameters.a.b=X`` as ``tuning.parameters={"a.b": X}``: what is searched are keys with dots in them."""
    found = []
    for override in overrides:
        key, equals, value = override.partition("=")
        name = key.strip().removeprefix(_SPACE)
        is_inside = bool(equals) and key.strip().startswith(_SPACE)
        found.append(f'tuning.parameters={{"{name}": {value}}}' if is_inside else override)
    return found


def _show_dry_run(config: Config) -> None:
    """The resolved configuration, once its search space was checked."""
    from llamafarm_ray.tuning.space import Space

    if config.tuning.parameters:
        Space.of(config)
    show_resolved(config)


def _live(progress: StageProgress, config: Config) -> Callable[[Mapping[int, Record]], None]:
    """Draw a sweep's progress: a bar by trials or time, and below it how the trials do."""
    began, total, budget_s = time.monotonic(), config.tuning.num_trials, config.tuning.budget_s

    def change(records: Mapping[int, Record]) -> None:
        valid = [record for record in records.values() if record.state != "invalid"]
        ended = sum(record.state != "running" for record in valid)
        passed = time.monotonic() - began
        shares = [ended / total] if total else []
        shares += [passed / budget_s] if budget_s else []
        note = f"{ended} of {total or len(valid)} trials"
        progress("tune", min(1.0, max(shares, default=ended / max(1, len(valid)))), note)
        progress.detail(*sweep_lines(records, lower_is_better=config.tuning.lower_is_better))

    return change


def sweep_lines(records: Mapping[int, Record], *, lower_is_better: bool) -> list[str]:
    """Return lines on trials: the best, then those that run."""
    from llamafarm_ray.tuning.explain import plain

    ended = [record for record in records.values() if record.value is not None]
    pick = min if lower_is_better else max
    lines = []
    if ended:
        best = pick(ended, key=lambda record: record.value or 0.0)
        lines.append(f"best: trial {best.number}  {plain(best.value)}  {_settings(best)}")
    running = [record for record in records.values() if record.state == "running"]
    lines += [f"runs: trial {one.number}  {plain(one.last)}  {_settings(one)}" for one in running[:4]]
    return lines or ["the first trials start"]


def _settings(record: Record) -> str:
    from llamafarm_ray.tuning.explain import plain

    return " ".join(f"{key.rpartition('.')[2]}={plain(value)}" for key, value in record.values.items())


def show_sweep(tuned: TunedModel, metric: str) -> None:
    """All trials with their results, the best first."""
    from llamafarm_ray.pages import duration
    from llamafarm_ray.tuning.explain import plain

    records, best = tuned.result.records, tuned.result.best
    order = sorted(records, key=lambda one: (one is not best, one.value is None, _rank(one, tuned), one.number))
    known = dict.fromkeys(key for record in records for key in record.values)
    keys = [key for key in known if len({str(record.values.get(key)) for record in records}) > 1]
    rows = [
        [
            f"{record.number}{' *' if record is best else ''}",
            str(record.state),
            plain(record.last),
            *(plain(record.values[key]) if key in record.values else "" for key in keys),
            duration(record.seconds) if record.seconds else "",
        ]
        for record in order[:_MAX_ROWS]
    ]
    columns = ["trial", "state", metric.replace("_", " "), *(key.rpartition(".")[2] for key in keys), "time"]
    table("Trials, the best first", columns, rows, drop_empty=True, whole=("state", "time"))
    if len(order) > _MAX_ROWS:
        say(f"{len(order) - _MAX_ROWS} more are in {tuned.folder / 'trials.jsonl'}.", style="dim")
    for text in tuned.words:
        say(text)
    for record in (one for one in records if one.state in {"failed", "invalid"}):
        say(f"Trial {record.number} {record.state}: {record.reason}", style="yellow")
    console.print(
        f"Ended after {duration(tuned.result.seconds)}: {tuned.result.ended_because}. "
        f"The page: {tuned.folder / 'report.html'}",
        markup=False,
        style="dim",
    )


def _rank(record: Record, tuned: TunedModel) -> float:
    value = record.last
    if value is None or math.isnan(value):
        return float("inf")
    best = tuned.result.best
    return abs(value - best.value) if best is not None and best.value is not None else value


def _to_dict(tuned: TunedModel, version: str | None) -> dict[str, object]:
    result = tuned.result
    return {
        "folder": str(tuned.folder),
        "path": str(tuned.path) if tuned.path else None,
        "version": version,
        "best": result.best.to_dict() if result.best else None,
        "trials": [record.to_dict() for record in result.records],
        "ended_because": result.ended_because,
        "seconds": result.seconds,
        "found": tuned.words,
    }
