"""``llamafarm models train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import Address, ConfigFile, DryRun, Home, Json, Overrides, configuration
from llamafarm_ray.cli.terminal import StageProgress, console, print_json, stages, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamafarm_ray.training import Progress, TrainingResult

__all__ = ["command", "loss_line", "show_result"]

_BLOCKS = "▁▂▃▄▅▆▇█"


def command(
    config_file: ConfigFile = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="What `create-dataset` wrote.")] = None,
    base_model: Annotated[str | None, typer.Option("--base-model", help="Folder, registered model or hub id.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="auto, lora, qlora or full.")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Folder to write.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    register_it: Annotated[
        bool, typer.Option("--register", help="Register the result under the config's name.")
    ] = False,
    overrides: Overrides = None,
    home: Home = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a base model on a dataset."""
    flags = {"dataset.path": dataset, "base_model": base_model, "fine_tuning.method": method}
    config = configuration(config_file, overrides, flags, home=home, address=address)
    if dry_run:
        from llamafarm_ray.config import resolved

        print_json(resolved(config))
        return
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.cluster import connect
    from llamafarm_ray.workflows.register import register_trained
    from llamafarm_ray.workflows.train import TrainingRun

    registry = open_registry(config.home)
    run = TrainingRun.prepare(config, registry, output=output, overwrite=overwrite)
    with connect(config.cluster.address), stages(quiet=as_json) as progress:
        trained = run.run(on_progress=loss_line(progress), on_stage=progress)
    record = register_trained(registry, config, trained.path) if register_it else None
    if as_json:
        print_json({"path": str(trained.path), "version": record and record.ref, **trained.result.to_dict()})
        return
    show_result(trained.result)
    next_step = (
        f"Registered {record.ref}." if record else f"Register it: llamafarm models register --model {trained.path}"
    )
    console.print(f"Written to {trained.path}. {next_step}", markup=False)


def loss_line(progress: StageProgress) -> Callable[[Progress], None]:
    """Draw a run's progress: a bar, and the loss as it falls."""
    losses: list[float] = []

    def step(now: Progress) -> None:
        losses.append(now.loss)
        curve = f"loss {now.loss:.3f} {sparkline(losses, 16)}"
        note = f"step {now.step}/{now.total_steps}  {curve}  {now.tokens_per_s:,.0f} tok/s"
        progress("train", now.step / now.total_steps, note)

    return step


def sparkline(values: list[float], width: int) -> str:
    """A curve in one line of text, ``width`` characters at most."""
    if not values:
        return ""
    size = max(1, -(-len(values) // width))
    means = [sum(part) / len(part) for part in (values[i : i + size] for i in range(0, len(values), size))]
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


def show_result(result: TrainingResult) -> None:
    """A finished run as a table."""
    table(
        f"Trained with {result.method}: {result.strategy}, workers: {result.num_workers}",
        ("rows", "steps", "first loss", "last loss", "curve", "trained weights", "seconds"),
        [
            (
                result.num_rows,
                result.num_steps,
                f"{result.losses[0]:.3f}",
                f"{result.losses[-1]:.3f}",
                sparkline(result.losses, 12),
                f"{result.num_trainable_parameters:,}",
                f"{result.seconds:.1f}",
            )
        ],
    )
    for reason in result.reasons:
        console.print(reason, style="dim", markup=False)
