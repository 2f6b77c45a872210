"""``llamafarm models create-dataset``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamafarm_ray.cli.jobs import ran_as_job
from llamafarm_ray.cli.options import (
    Address,
    ConfigFile,
    DryRun,
    Home,
    Json,
    NoWait,
    Overrides,
    Overwrite,
    configuration,
)
from llamafarm_ray.cli.terminal import console, print_json, stages, table

__all__ = ["command"]


def command(
    source: Annotated[
        list[str] | None,
        typer.Option("--source", help="Folder, document, pattern or URI to read documents from; may be repeated."),
    ] = None,
    format_: Annotated[str | None, typer.Option("--format", help="alpaca, sharegpt or chatml.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for Parquet, or a .json or .jsonl file, to write.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first document that can't be read instead of skipping it.")
    ] = False,
    overwrite: Overwrite = False,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    home: Home = None,
    address: Address = None,
    no_wait: NoWait = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Build a training set of questions and answers from documents."""
    flags = {
        "dataset.source.path": source[0] if source and len(source) == 1 else source or None,
        "dataset.source.strict": True if strict else None,
        "dataset.preprocessing.format": format_,
        "dataset.path": str(output) if output else None,
    }
    config = configuration(config_file, overrides, flags, home=home, address=address)
    if dry_run:
        from llamafarm_ray.config import resolved

        print_json(resolved(config))
        return
    if ran_as_job(
        "create-dataset",
        config,
        outputs={"--output": Path(config.dataset.path or Path("datasets", config.name))},
        flags={"--overwrite": overwrite},
        no_wait=no_wait,
        as_json=as_json,
    ):
        return
    from llamafarm_ray.data import source_lines
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.cluster import connect
    from llamafarm_ray.workflows.create_dataset import check_source, create_dataset

    check_source(config)
    with connect(config.cluster.address), stages(quiet=as_json) as progress:
        created = create_dataset(config, open_registry(config.home), overwrite=overwrite, on_progress=progress)
    report = created.report
    if as_json:
        print_json({"name": created.name, "path": str(created.path), **report.to_dict()})
        return
    table(
        f"Dataset {created.name}",
        ("documents", "skipped", "training examples", "held out", "digest"),
        [
            (
                report.documents.read,
                len(report.documents.skipped),
                report.num_train,
                report.num_validation,
                report.digest[7:19],
            )
        ],
    )
    for line in source_lines(report.documents):
        console.print(line, style="yellow", markup=False)
    console.print(
        f"Written to {created.path}. Train on it: llamafarm models train --dataset {created.path}", markup=False
    )
