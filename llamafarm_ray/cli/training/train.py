"""``llamafarm models train``."""

from __future__ import annotations

import itertools
import math
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.build_progress import BuildProgress
from llamafarm_ray.cli.jobs import ran_as_job
from llamafarm_ray.cli.kubernetes import Apply, Target, check_options, show_or_apply
from llamafarm_ray.cli.options import (
    Address,
    BaseModelReference,
    ConfigFile,
    DatasetFolder,
    DryRun,
    Home,
    Json,
    NoWait,
    Offline,
    Overrides,
    Overwrite,
    RegisterResult,
    configuration,
    stay_offline,
)
from llamafarm_ray.cli.terminal import StageProgress, begin, clock, console, facts, print_json, size, stages
from llamafarm_ray.cli.training.estimate import show_dry_run
from llamafarm_ray.cli.training.stopping import said_how_to_go_on
from llamafarm_ray.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamafarm_ray.config import Config
    from llamafarm_ray.training import Progress, TrainingResult

__all__ = ["command", "loss_line", "show_result"]

_BLOCKS = "▁▂▃▄▅▆▇█"


def command(
    config_file: ConfigFile = None,
    dataset: DatasetFolder = None,
    base_model: BaseModelReference = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="auto, lora, qlora, full, adapter, prefix_tuning or hybrid_lora_adapter."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Folder to write.")] = None,
    overwrite: Overwrite = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an unfinished run with this output; otherwise it is resumed.")
    ] = False,
    register_it: RegisterResult = False,
    overrides: Overrides = None,
    offline: Offline = False,
    home: Home = None,
    address: Address = None,
    no_wait: NoWait = False,
    target: Annotated[
        Target, typer.Option("--target", help="ray: this machine or a cluster; kubernetes: print a manifest.")
    ] = Target.RAY,
    apply: Apply = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a base model on a dataset."""
    stay_offline(offline)
    flags = {"dataset.path": dataset, "base_model": base_model, "fine_tuning.method": method}
    config = configuration(config_file, overrides, flags, home=home, address=address)
    if dry_run:
        show_dry_run(config, as_json=as_json)
        return
    is_kubernetes = target is Target.KUBERNETES
    check_options(is_kubernetes=is_kubernetes, apply=apply, address=address, no_wait=no_wait)
    if is_kubernetes:
        _as_manifests(config, output=output, apply=apply, as_json=as_json)
        return
    if ran_as_job(
        "train",
        config,
        outputs={"--output": output or Path("trained_models", config.name)},
        flags={"--register": True, "--overwrite": overwrite, "--restart": restart, "--offline": offline},
        no_wait=no_wait,
        as_json=as_json,
    ):
        return
    _train(config, output, overwrite=overwrite, restart=restart, register_it=register_it, as_json=as_json)


def _train(
    config: Config, output: Path | None, *, overwrite: bool, restart: bool, register_it: bool, as_json: bool
) -> None:
    """Train on a Ray that this process connects to, register the result if asked, and print it."""
    begin("Checking the run", quiet=as_json)
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.telemetry.traces import traced, traces_endpoint
    from llamafarm_ray.workflows.clusters.cluster import connect
    from llamafarm_ray.workflows.training.train import TrainingRun
    from llamafarm_ray.workflows.versions.register import register_trained

    registry = open_registry(config.home)
    run = TrainingRun.prepare(config, registry, output=output, overwrite=overwrite, restart=restart)
    collector = traces_endpoint(config.deployment.otlp_traces_endpoint, os.environ)
    with traced(collector, "run", {"llamafarm.model": config.name}):
        with (
            connect(
                config.cluster.address,
                on_start=partial(begin, quiet=as_json),
                meanwhile="llamafarm_ray.training.trainer",
            ),
            stages(quiet=as_json) as progress,
            said_how_to_go_on(
                "The same command goes on after the run's last checkpoint"
                + (", without --restart." if restart else ".")
            ),
        ):
            trained = run.run(on_progress=loss_line(progress), on_stage=BuildProgress(progress), on_note=progress.warn)
        record = register_trained(registry, config, trained.path) if register_it else None
    if as_json:
        print_json({"path": str(trained.path), "version": record and record.ref, **trained.result.to_dict()})
        return
    show_result(trained.result, trained.path)
    next_step = (
        f"Registered {record.ref}." if record else f"Register it: llamafarm models register --model {trained.path}"
    )
    console.print(f"Written to {trained.path}. {next_step}", markup=False)


def _as_manifests(config: Config, *, output: Path | None, apply: bool, as_json: bool) -> None:
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.kubernetes import ray_job

    if output is not None:
        raise InputError(
            "--output is a folder, and pods' folders go with them; the result is registered.",
            hint="Leave it out; `llamafarm models pull` gives its files.",
        )
    show_or_apply(ray_job(config, open_registry(config.home)), apply=apply, as_json=as_json)


def loss_line(progress: StageProgress) -> Callable[[Progress], None]:
    """Draw a run's progress: a bar with the time that is left, the loss as it falls, speed and memory."""
    losses: list[float] = []
    pace = _Pace()

    def step(now: Progress) -> None:
        losses.append(now.loss)
        left_s = pace.left_s(now)
        progress("train", now.step / now.total_steps, "" if left_s is None else f"{clock(left_s)} left")
        head = f"step {now.step:,}/{now.total_steps:,}, epoch {now.epoch + 1}  loss {now.loss:.3f} "
        room = progress.width - len(head) - 14
        progress.detail(head + sparkline(losses, max(8, min(60, room))), speed_line(now))
        for text in now.alerts:
            progress.warn(f"step {now.step}: {text}")

    return step


def speed_line(now: Progress) -> str:
    """Rate, speed, memory and MFU of a step, as far as they are known."""
    parts = [f"lr {now.learning_rate:.2e}", f"grad {now.grad_norm:.3g}", f"{now.tokens_per_s:,.0f} tok/s"]
    if now.memory_bytes is not None:
        parts.append(size(now.memory_bytes))
    if now.mfu is not None:
        parts.append(f"MFU {now.mfu:.0%}")
    return "  ".join(parts)


class _Pace:
    """Estimate of a run's remaining time, by its last steps."""

    def __init__(self) -> None:
        self._before: Progress | None = None
        self._seconds_per_step: float | None = None

    def left_s(self, now: Progress) -> float | None:
        """Seconds until the last step; None after the first one, whose compiling and loading say nothing."""
        before, self._before = self._before, now
        if before is not None and now.step > before.step:
            recent = (now.seconds - before.seconds) / (now.step - before.step)
            known = self._seconds_per_step
            self._seconds_per_step = recent if known is None else 0.9 * known + 0.1 * recent
        if self._seconds_per_step is None:
            return None
        return max(0.0, self._seconds_per_step * (now.total_steps - now.step))


def sparkline(values: list[float], width: int) -> str:
    """Return a curve in one line of text, of ``width`` characters at most, without values that are not finite."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    count = min(width, len(known))
    cuts = [index * len(known) // count for index in range(count + 1)]
    means = [sum(known[start:end]) / (end - start) for start, end in itertools.pairwise(cuts)]
    low, high = min(means), max(means)
    spread = (high - low) or 1.0
    return "".join(_BLOCKS[round((mean - low) / spread * (len(_BLOCKS) - 1))] for mean in means)


def show_result(result: TrainingResult, path: Path | None = None) -> None:
    """A finished run.

    Args:
        path: its folder, if its report shall be pointed at.
    """
    losses = result.losses
    validation = result.metrics.get("validation_loss")
    workers = f"{result.num_workers} worker{'s' if result.num_workers > 1 else ''}"
    dropped = sum(result.num_dropped.values())
    speed = f", {result.num_tokens / result.seconds:,.0f} tok/s" if result.seconds > 0 else ""
    report = path / "report.html" if path is not None else None
    facts(
        f"Trained with {result.method}: {result.strategy}, {workers}, {result.precision}",
        [
            ("loss", f"{losses[0]:.3f} → {losses[-1]:.3f}  {sparkline(losses, 24)}" if losses else ""),
            ("validation loss", "" if validation is None else f"{validation:.3f}"),
            ("steps", f"{result.num_steps:,} in {clock(result.seconds)}{speed}"),
            ("rows", f"{result.num_rows:,}" + (f", {dropped:,} left out" if dropped else "")),
            ("trained weights", f"{result.num_trainable_parameters:,}"),
            ("report", report if report is not None and report.is_file() else ""),
        ],
    )
    for reason in result.reasons:
        console.print(reason, style="dim", markup=False)
