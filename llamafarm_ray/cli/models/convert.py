"""``llamafarm models convert``: a model or an adapter in another format, measured against its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamafarm_ray.cli.models.derived import register_derived, show_derived
from llamafarm_ray.cli.options import AdapterBase, Home, Json, Output, Overwrite, RegisterOrName
from llamafarm_ray.cli.terminal import facts, number, stages

if TYPE_CHECKING:
    from llamafarm_ray.workflows.models.convert import ConvertedModel

__all__ = ["command"]


def command(
    model: Annotated[
        str, typer.Argument(help="Folder, GGUF file, wheel or zip file with one model, adapter, or registered name.")
    ],
    output: Output,
    to: Annotated[str, typer.Option("--to", help="Format: safetensors, gguf, onnx, openvino or mlx.")],
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="Format of the weights: fp32, bf16 (not for onnx and openvino) or fp16; for gguf also q8_0, q6_k, "
            "q5_k_m, q5_k_s, q4_k_m, q4_k_s, q4_0, q3_k_m; for mlx also int8, int4. auto: the source's own, bf16 if "
            "that is quantized; for onnx and openvino fp32 unless the source is in fp16.",
        ),
    ] = "auto",
    convert_pickle: Annotated[
        bool,
        typer.Option("--convert-pickle", help="Read a folder's pickled weights (.bin, .pt), in a process with limits."),
    ] = False,
    base_model: AdapterBase = None,
    register: RegisterOrName = None,
    overwrite: Overwrite = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Convert a model to another format, and refuse the result if it answers differently."""
    from llamafarm_ray.models.tokenizer import quiet_libraries
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.models.convert import convert

    quiet_libraries()
    registry = open_registry(home)
    with stages(quiet=as_json) as progress:
        made = convert(
            registry,
            model,
            output,
            to=to,
            precision=precision,
            base_model=base_model,
            convert_pickle=convert_pickle,
            overwrite=overwrite,
            on_stage=progress,
        )
    record = register_derived(registry, output, register, base_model=made.base_model or None)
    show_derived(made, record, lambda: _show(model, made), notes=made.notes, as_json=as_json)


def _show(model: str, made: ConvertedModel) -> None:
    facts(f"{model} as {made.target}", [("folder", made.path), ("precision", made.precision), *_rows(made.difference)])


def _rows(difference: dict[str, Any]) -> list[tuple[str, str]]:
    if "mean_kl" not in difference:
        return [("largest difference of an update", number(difference["largest_update_difference"]))]
    worst = f"{difference['worst_layer']} ({difference['worst_layer_error']:.2%} of its output)"
    return [
        ("same next token", f"{difference['greedy_agreement']:.1%} of {difference['num_tokens']}"),
        ("mean divergence", f"{number(difference['mean_kl'])} nats"),
        ("perplexity", f"{number(difference['perplexity'])} (source {number(difference['perplexity_source'])})"),
        ("worst layer", worst),
    ]
