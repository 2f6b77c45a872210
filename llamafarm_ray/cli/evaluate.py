"""``llamafarm models evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.jobs import ran_as_job
from llamafarm_ray.cli.options import (
    Address,
    ConfigFile,
    DryRun,
    Home,
    Json,
    NoWait,
    Offline,
    Overrides,
    configuration,
    stay_offline,
)
from llamafarm_ray.cli.terminal import console, print_json, stages, table

if TYPE_CHECKING:
    from llamafarm_ray.evaluation import EvaluationResult

__all__ = ["command", "show_evaluation"]


def command(
    model: Annotated[str, typer.Option("--model", help="Folder that `train` wrote, or a registered version.")],
    dataset: Annotated[str | None, typer.Option("--dataset", help="Its held-out examples are asked.")] = None,
    benchmark: Annotated[list[str] | None, typer.Option("--benchmark", help="Standard benchmark to run.")] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="An adapter's base, if not the one it names.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="JSON file to write the results to.")] = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    offline: Offline = False,
    home: Home = None,
    address: Address = None,
    no_wait: NoWait = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Measure a model on held-out examples, beside its base."""
    stay_offline(offline)
    flags = {"dataset.path": dataset, "base_model": base_model, "evaluation.benchmarks": benchmark or None}
    config = configuration(config_file, overrides, flags, home=home, address=address)
    if dry_run:
        from llamafarm_ray.config import resolved

        print_json(resolved(config))
        return
    if ran_as_job(
        "evaluate",
        config,
        inputs={"--model": model},
        outputs={"--output": output},
        flags={"--offline": offline},
        no_wait=no_wait,
        as_json=as_json,
    ):
        return
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.cluster import connect
    from llamafarm_ray.workflows.evaluate import EvaluationRun, write_result

    run = EvaluationRun.prepare(config, open_registry(config.home), model)
    with connect(config.cluster.address), stages(quiet=as_json) as progress:
        result = run.run(on_progress=progress)
    if as_json:
        print_json(result.to_dict())
    else:
        show_evaluation(result)
    if output is not None:  # after it was shown: it took long, and a full disk shall not lose it
        write_result(result, output)
    if output is not None and not as_json:
        console.print(f"Written to {output}.", markup=False)


def show_evaluation(result: EvaluationResult) -> None:
    """Scores beside the base's."""
    rows = [
        (f"{benchmark} {metric}", _number((scores.baseline or {}).get(metric)), _number(value))
        for benchmark, scores in result.benchmarks.items()
        for metric, value in scores.metrics.items()
    ]
    counts = {scores.num_examples for scores in result.benchmarks.values() if scores.num_examples}
    examples = f" on {' and '.join(map(str, sorted(counts)))} examples" if counts else ""
    table(f"{result.model_id}{examples}", ("measure", "base", "model"), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}" if abs(value) < _LARGE else f"{value:,.0f}"


_LARGE = 1000
"""From here on a score is shown without decimals."""
