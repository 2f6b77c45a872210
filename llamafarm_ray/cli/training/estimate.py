"""``llamafarm models estimate``, and the estimate beside ``train --dry-run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import ConfigFile, Home, Json, Overrides, configuration
from llamafarm_ray.cli.terminal import errors, facts, print_json, say, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamafarm_ray.config import Config
    from llamafarm_ray.registry import RegistryApi
    from llamafarm_ray.training.estimate import Option
    from llamafarm_ray.workflows.training.estimate import RunEstimate

__all__ = ["command", "show_dry_run"]

_GIB = 1024**3
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400
_COLUMNS = ("method", "strategy", "memory", "batch", "time", "cost")
_PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "framework")


def command(
    config_file: ConfigFile = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Folder, registered model, or a size such as 7b.")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", help="auto, lora, qlora, full, adapter, ...")] = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="DEVICE", help="a100-80gb, h100, l4, ...; unset: this machine.")
    ] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", help="Number of GPUs, a worker each.")] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="auto, single, ddp, deepspeed_zero1, 2 or 3.")
    ] = None,
    offload: Annotated[str | None, typer.Option("--offload", help="none, cpu or nvme (ZeRO).")] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", help="Longest row in tokens.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Rows per worker and forward pass.")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option("--gradient-checkpointing/--no-gradient-checkpointing", help="Compute twice.")
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="auto, bf16, fp16 or fp32.")] = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Training rows; unset: the dataset's.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Passes over them.")] = None,
    prices: Annotated[
        Path | None, typer.Option("--prices", metavar="FILE", help="Your own prices and devices (YAML or JSON).")
    ] = None,
    overrides: Overrides = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Predict memory, time and cost of a training run, and what would fit."""
    tuning, training = "fine_tuning.distributed", "fine_tuning.training"
    flags = {
        "base_model": base_model,
        "fine_tuning.method": method,
        f"{tuning}.workers": gpus,
        f"{tuning}.strategy": strategy,
        f"{tuning}.offload": offload,
        f"{training}.max_length": max_length,
        f"{training}.batch_size": batch_size,
        f"{training}.gradient_checkpointing": gradient_checkpointing,
        f"{training}.precision": precision,
        f"{training}.epochs": epochs,
    }
    config = configuration(config_file, overrides, flags, home=home)
    from llamafarm_ray.workflows.training.estimate import estimate_run

    found = estimate_run(config, _opener(config), gpu=gpu, num_rows=rows, prices=prices, all_options=True)
    if as_json:
        print_json(found.to_dict())
        return
    _show(found)


def show_dry_run(config: Config, *, as_json: bool) -> None:
    """Print the resolved configuration on standard output, and the estimate for this machine beside it.

    For people the estimate goes to standard error, so that ``--dry-run > config.json`` stays a configuration.
    """
    from llamafarm_ray.config import resolved
    from llamafarm_ray.workflows.training.estimate import try_estimate

    found = try_estimate(config, _opener(config))
    if as_json:
        print_json({**resolved(config), "estimate": {"error": found} if isinstance(found, str) else found.to_dict()})
        return
    print_json(resolved(config))
    errors.line(f"No estimate: {found}" if isinstance(found, str) else _summary(found))


def _opener(config: Config) -> Callable[[], RegistryApi]:
    def opened() -> RegistryApi:
        from llamafarm_ray.registry import open_registry

        return open_registry(config.home)

    return opened


def _show(found: RunEstimate) -> None:
    setup, machine, memory = found.setup, found.machine, found.memory
    numbers = memory.to_dict()
    checkpointing = ", gradient checkpointing" if setup.gradient_checkpointing else ""
    share = [f"{part} {_gib(numbers[part])}" for part in _PARTS if numbers[part]]
    facts(
        f"{found.shape.name}, {found.shape.num_parameters / 1e9:.3g}B parameters",
        [
            ("run", f"{setup.method}, {setup.strategy}, {setup.precision}{checkpointing}"),
            ("batch", f"{setup.batch_size} x {setup.max_length} tokens on each of {_devices(found)}"),
            ("memory", f"{_gib(memory.total)} of {_gib(machine.memory_bytes)}: {found.verdict}"),
            ("", ""),
            ("of which", ", ".join(share)),
            ("on the host", _host(memory.host, setup.num_workers)),
            ("time", _time(found)),
            ("cost", _dollars(found.duration.dollars)),
        ],
    )
    for other in found.alternatives:
        say(f"  would fit: {other}", style="yellow")
    if found.options:
        table(
            f"What fits {_devices(found)}, the fastest first",
            _COLUMNS,
            [_cells(option) for option in found.options],
            drop_empty=True,
            whole=("memory", "time", "cost"),
        )
    else:
        say("No method fits this hardware.", style="yellow")
    for note in found.notes:
        say(note, style="dim")


def _summary(found: RunEstimate) -> str:
    memory, have = _gib(found.memory.total), _gib(found.machine.memory_bytes)
    summary = (
        f"Estimate for {found.machine.name}: {found.setup.method}, {found.setup.strategy}, "
        f"{memory} of {have} a worker ({found.verdict}), {_time(found)}"
    )
    return "\n".join([summary, *(f"  would fit: {other}" for other in found.alternatives)])


def _cells(option: Option) -> tuple[str, ...]:
    setup = option.setup
    offload = "" if setup.offload == "none" else f", {setup.offload} offload"
    return (
        setup.method,
        setup.strategy + offload,
        _gib(option.memory.total),
        f"{setup.batch_size}{' (checkpointing)' if setup.gradient_checkpointing else ''}",
        _length(option.duration.seconds),
        _dollars(option.duration.dollars),
    )


def _host(num_bytes: int, num_workers: int) -> str:
    """Return the host's memory of a worker and of all workers; nothing where none is taken."""
    if not num_bytes:
        return ""
    share = _gib(num_bytes)
    return (
        share if num_workers == 1 else f"{share} for each worker, {_gib(num_workers * num_bytes)} for all {num_workers}"
    )


def _devices(found: RunEstimate) -> str:
    return f"{found.setup.num_workers} x {found.machine.name}"


def _time(found: RunEstimate) -> str:
    what = "a million tokens" if found.num_rows is None else f"{found.num_rows:,} rows"
    return f"{_length(found.duration.seconds)} for {what}, {found.duration.tokens_per_s:,.0f} tokens/s"


def _length(seconds: float) -> str:
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    return f"{seconds / _HOUR_S:.1f} h" if seconds < 2 * _DAY_S else f"{seconds / _DAY_S:.1f} days"


def _dollars(amount: float | None) -> str:
    return f"${amount:,.2f}" if amount else ""


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:,.2f} GiB" if num_bytes < 10 * _GIB else f"{num_bytes / _GIB:,.0f} GiB"
