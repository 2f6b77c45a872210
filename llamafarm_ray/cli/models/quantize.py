"""``llamafarm models quantize``: a model in few bits, measured against its source and, by ``auto``, chosen so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llamafarm_ray.cli.models.derived import register_derived, show_derived
from llamafarm_ray.cli.options import Home, Json, Output, Overwrite, RegisterOrName
from llamafarm_ray.cli.terminal import facts, number, say, size, stages, table

if TYPE_CHECKING:
    from llamafarm_ray.registry import RegistryApi
    from llamafarm_ray.workflows.models.quantize import QuantizedModel, Tried

__all__ = ["command"]


def command(
    model: Annotated[
        str, typer.Argument(help="Folder, GGUF file, wheel or zip file with one model, or registered name.")
    ],
    output: Output,
    scheme: Annotated[
        str,
        typer.Option(
            "--scheme",
            help="int8, int4, w8a8 or fp8 (compressed-tensors), nf4 (bitsandbytes), gguf-q8_0, gguf-q4_k_m, ... "
            "auto: the fastest of those that this machine serves within the budget.",
        ),
    ] = "auto",
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="Conditions on quality, agreement or perplexity_ratio, with commas between; auto: quality>=0.99.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="Dataset whose texts the rounding is fitted to.")
    ] = None,
    keep: Annotated[
        Literal["best", "front"],
        typer.Option(
            "--keep",
            help="Result of auto. best: the chosen one. front: each on the Pareto front within the budget, in a "
            "folder below --output; --register NAME registers them as NAME-SCHEME.",
        ),
    ] = "best",
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Measure speed on this machine.")] = True,
    register: RegisterOrName = None,
    overwrite: Overwrite = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Quantize a model, and refuse the result if it answers too differently."""
    from llamafarm_ray.models.tokenizer import quiet_libraries
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.serving.optimize.speed import measure_speed
    from llamafarm_ray.workflows.models.quantize import quantize

    quiet_libraries()
    registry = open_registry(home)
    _check_names(register if keep == "front" else None)
    with stages(quiet=as_json) as progress:
        made = quantize(
            registry,
            model,
            output,
            scheme=scheme,
            budget=budget,
            calibration=calibration,
            keep=keep,
            overwrite=overwrite,
            measure=measure_speed if speed else None,
            on_stage=progress,
        )
    _register_and_show(registry, model, made, register, is_front=keep == "front", as_json=as_json)


def _check_names(prefix: str | None) -> None:
    """Check the names that the models of a front may get, if they are to be registered, before the work begins."""
    from llamafarm_ray.models.quantize.schemes import SCHEMES
    from llamafarm_ray.registry import check_name

    for scheme in SCHEMES if prefix else ():
        check_name(f"{prefix}-{scheme}")


def _register_and_show(
    registry: RegistryApi, model: str, made: QuantizedModel, register: str | None, *, is_front: bool, as_json: bool
) -> None:
    """Register the results if a name is given, those of a front with their schemes in it, and print them."""
    records = {
        name: register_derived(registry, folder, f"{register}-{name}" if register and is_front else register)
        for name, folder in made.folders.items()
    }
    also = [record for name, record in records.items() if record and name != made.scheme]
    show_derived(made, records[made.scheme], lambda: _show(model, made), also=also, notes=made.notes, as_json=as_json)


def _show(model: str, made: QuantizedModel) -> None:
    if len(made.tried) > 1:
        columns = ("scheme", "", "size", "quality", "same token", "perplexity", "tokens/s", "first token", "")
        table(f"{model} ({size(made.source_bytes)})", columns, [_row(one) for one in made.tried], drop_empty=True)
        say("* on the Pareto front of size, quality and speed")
    chosen, difference = made.chosen, made.chosen.difference
    facts(
        f"{model} by {made.scheme}",
        [
            ("folder", made.folders[made.scheme]),
            ("size", f"{size(chosen.size_bytes)} (source {size(made.source_bytes)})"),
            ("quality", f"{chosen.quality:.4f}"),
            ("same next token", f"{difference['greedy_agreement']:.1%} of {difference['num_tokens']}"),
            ("mean divergence", f"{number(difference['mean_kl'])} nats"),
            ("perplexity", f"{number(difference['perplexity'])} (source {number(difference['perplexity_source'])})"),
            ("worst layer", f"{difference['worst_layer']} ({difference['worst_layer_error']:.2%} of its output)"),
            ("fitted to", f"{made.num_samples} texts" if made.num_samples else ""),
            ("speed", f"{number(chosen.tokens_per_s)} tokens/s in engine {chosen.engine}" if chosen.engine else ""),
            ("first token", f"{number(chosen.first_token_s)} s" if chosen.engine else ""),
        ],
    )


def _marks(one: Tried) -> str:
    words = (("*", one.is_on_front), ("chosen", one.is_chosen), ("kept", one.is_kept and not one.is_chosen))
    return " ".join(word for word, holds in words if holds)


def _row(one: Tried) -> tuple[str, ...]:
    if one.error:
        return (one.scheme, "", "", "", "", "", "", "", one.error)
    ratio = one.difference["perplexity"] / one.difference["perplexity_source"]
    return (
        one.scheme,
        _marks(one),
        size(one.size_bytes),
        f"{one.quality:.4f}",
        f"{one.difference['greedy_agreement']:.1%}",
        f"x {ratio:.3f}",
        number(one.tokens_per_s),
        f"{number(one.first_token_s)} s" if one.first_token_s is not None else "",
        "",
    )
