"""``llamafarm models combine``: one adapter from several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.models.derived import register_derived, show_derived
from llamafarm_ray.cli.options import Home, Json, Output, Overwrite, RegisterAs
from llamafarm_ray.cli.terminal import number, say, waiting

if TYPE_CHECKING:
    from llamafarm_ray.workflows.models.combine import CombinedAdapter

__all__ = ["command"]


def command(
    models: Annotated[list[str], typer.Argument(help="Adapters of one base: folders, or names of versions.")],
    output: Output,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Weight of each, such as 0.7,0.3; else equal shares of 1.")
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="cat, svd, linear, ties, dare_linear, dare_ties or magnitude_prune.")
    ] = "cat",
    density: Annotated[
        float | None, typer.Option("--density", help="Share of values kept (ties, dare_*, magnitude_prune).")
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", min=1, max=512, help="Rank of the result (svd); else the highest.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Their base; else the one their records name.")
    ] = None,
    register: RegisterAs = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the random choice of dare_*.")] = 0,
    overwrite: Overwrite = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Combine adapters of one base model into a single adapter."""
    from llamafarm_ray.models.tokenizer import quiet_libraries
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.models.combine import combine

    quiet_libraries()
    counts = _numbers(weights) if weights is not None else None
    registry = open_registry(home)
    with waiting(f"Combining {len(models)} adapters", quiet=as_json):
        combined = combine(
            registry,
            models,
            output,
            weights=counts,
            method=method,
            density=density,
            rank=rank,
            base_model=base_model,
            seed=seed,
            overwrite=overwrite,
        )
        record = register_derived(registry, output, register)
    show_derived(combined, record, lambda: _show(combined, output), as_json=as_json)


def _show(combined: CombinedAdapter, output: Path) -> None:
    parts = ", ".join(f"{number(w)} x {name}" for name, w in zip(combined.parents, combined.weights, strict=True))
    say(f"Combined {parts} by {combined.method}: {output} (rank {combined.check.r}).")
    say(f"Its update is {number(100 * combined.check.error)}% away from the weighted sum of theirs.")


def _numbers(text: str) -> list[float]:
    from llamafarm_ray.errors import InputError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--weights {text!r} is no list of numbers.", hint="Write it like 0.7,0.3.") from None
