"""``llamafarm models merge``: an adapter's update into its base model's weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.models.derived import register_derived, show_derived
from llamafarm_ray.cli.options import AdapterBase, Home, Json, Output, Overwrite, RegisterAs
from llamafarm_ray.cli.terminal import number, say, waiting

if TYPE_CHECKING:
    from llamafarm_ray.workflows.models.merge import MergedModel

__all__ = ["command"]


def command(
    model: Annotated[str, typer.Option("--model", help="Adapter: a folder, name, name:1.2.0 or name@production.")],
    output: Output,
    base_model: AdapterBase = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="Format of the weights: auto (the base's own), fp32, bf16 or fp16.")
    ] = "auto",
    register: RegisterAs = None,
    overwrite: Overwrite = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Merge an adapter into its base model, and check that the result answers alike."""
    from llamafarm_ray.models.tokenizer import quiet_libraries
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.models.merge import merge

    quiet_libraries()
    registry = open_registry(home)
    with waiting(f"Merging {model}", quiet=as_json):
        merged = merge(registry, model, output, base_model=base_model, dtype=dtype, overwrite=overwrite)
        record = register_derived(registry, output, register)
    show_derived(merged, record, lambda: _show(merged, output), notes=merged.notes, as_json=as_json)


def _show(merged: MergedModel, output: Path) -> None:
    check = merged.check
    say(f"Merged {merged.adapter} into {merged.base_model}: {output} ({check.dtype}).")
    say(
        f"On {check.num_prompts} sample prompts logits differ by at most {number(check.max_difference)} "
        f"({number(check.relative_difference)} of the largest; {number(check.tolerance)} is allowed), and "
        f"{number(check.rounded_difference)} once rounded to {check.dtype}."
    )
