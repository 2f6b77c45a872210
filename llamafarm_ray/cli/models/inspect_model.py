"""``llamafarm models inspect``: a model examined without loading it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import Home, Json
from llamafarm_ray.cli.terminal import facts, print_json, say, size

if TYPE_CHECKING:
    from llamafarm_ray.workflows.inspection.inspect_model import InspectedModel

__all__ = ["command"]


def command(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder, safetensors or GGUF file, wheel or zip file with one model, name, or a source of downloads "
            "(owner/name, https://, s3://, oci://, ...), of which only headers are fetched."
        ),
    ],
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="PATTERN", help="Weights of a source to look at: '*Q4_K_M*'."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print a model's facts, the state of its files, its needs and its uses."""
    from llamafarm_ray.models.tokenizer import quiet_libraries
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.inspection.inspect_model import inspect_model

    quiet_libraries()
    found = inspect_model(open_registry(home), source, include=include or ())
    if as_json:
        print_json(found.to_dict())
        return
    _show(found)


def _show(found: InspectedModel) -> None:
    seen = found.inspection
    weights = ", ".join(f"{name} {size(num)}" for name, num in seen.weight_bytes.items())
    tokens = f" ({seen.num_tokens:,} tokens)" if seen.num_tokens else ""
    facts(
        found.source,
        [
            ("format", f"{seen.format} adapter" if seen.is_adapter else seen.format),
            ("architecture", seen.architecture),
            ("parameters", f"{seen.num_parameters:,}"),
            ("tensors", f"{seen.num_tensors} ({weights})"),
            ("size", size(found.size_bytes)),
            ("context", f"{seen.context_length:,} tokens" if seen.context_length else ""),
            ("tokenizer", f"{seen.tokenizer}{tokens}" if seen.tokenizer else "none"),
            ("chat template", "yes" if seen.has_chat_template else "no"),
            ("memory of weights", ", ".join(f"{name} {size(num)}" for name, num in seen.memory_bytes.items())),
            ("served by", ", ".join(found.served_by) or "none"),
            ("trained by", ", ".join(found.trained_by) or "none"),
        ],
    )
    facts(
        "Model card",
        [(key, ", ".join(value) if isinstance(value, list) else value) for key, value in seen.card.items()],
    )
    for problem in (*seen.problems, *found.notes):
        say(problem, style="yellow")
    if seen.comparison.unchecked:
        say(f"Its tensors were not compared with its architecture: {seen.comparison.unchecked}.", style="yellow")
    elif not seen.problems:
        say("Its tensors are those of its architecture.")
