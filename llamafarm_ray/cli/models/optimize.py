"""``llamafarm models optimize``: the deployment section that serves a model best on a device."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import Home, Json, Overwrite
from llamafarm_ray.cli.terminal import errors, number, print_json, say, size, table

if TYPE_CHECKING:
    from llamafarm_ray.workflows.deployments.optimize import Optimized

__all__ = ["command"]


def command(
    model: Annotated[str, typer.Argument(help="Folder, GGUF file or registered name of a model.")],
    target: Annotated[
        str,
        typer.Option(
            "--target", help="this-machine, which is measured, or a device that is predicted: nvidia-h100, cpu-amx, ..."
        ),
    ] = "this-machine",
    concurrency: Annotated[
        int, typer.Option("--concurrency", help="Answers at the same time, whose rate together is made largest.")
    ] = 1,
    max_model_len: Annotated[
        int | None, typer.Option("--max-model-len", help="Longest prompt with its answer, in tokens.")
    ] = None,
    min_quality: Annotated[
        float, typer.Option("--min-quality", help="Quality that registered quantized versions must have.")
    ] = 0.99,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="YAML file to write.")] = None,
    overwrite: Overwrite = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Choose form, engine and settings, and print the configuration that `deploy --config` takes."""
    import yaml

    from llamafarm_ray.models.tokenizer import quiet_libraries
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.optimize import optimize, write_config

    quiet_libraries()
    made = optimize(
        open_registry(home),
        model,
        target=target,
        concurrency=concurrency,
        max_model_len=max_model_len,
        min_quality=min_quality,
        on_trial=lambda text: None if as_json else errors.line(f"Trying {text} ..."),
    )
    if output is not None:
        write_config(made, output, overwrite=overwrite)
    if as_json:
        print_json(asdict(made))
        return
    _show(made)
    for note in made.notes:
        errors.line(note)
    say(yaml.safe_dump(made.config, sort_keys=False).rstrip())
    if output is not None:
        errors.line(f"Written to {output}. Serve it with `llamafarm models deploy --config {output}`.")


def _show(made: Optimized) -> None:
    from llamafarm_ray.serving.optimize.options import spelled

    if made.is_measured:
        columns = ("form", "engine", "dtype", "threads", "options", "answer", "tokens/s", "")
        rows = [
            (
                row["form"],
                row["engine"],
                row["dtype"] or "",
                row["threads"] or "",
                spelled(row["options"].items()),
                f"{row['answer_tokens']} tokens",
                number(row["tokens_per_s"]),
                row["error"] or ("chosen" if row["is_chosen"] else ""),
            )
            for row in made.trials
        ]
        table("Measured on this machine", columns, rows, drop_empty=True)
        return
    predicted = [
        (
            row["form"],
            size(row["memory_bytes"]),
            f"{row['cache_bits']} bits",
            "yes" if row["fits"] else "no",
            number(row["tokens_per_s"]),
            f"{number(row['first_token_s'])} s",
        )
        for row in made.trials
    ]
    table(
        f"Predicted for {made.target}",
        ("form", "memory", "keys and values", "fits", "tokens/s", "first token"),
        predicted,
    )
