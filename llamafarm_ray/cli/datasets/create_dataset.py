"""``llamafarm models create-dataset``."""

from __future__ import annotations

import contextlib
import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.build_progress import BuildProgress
from llamafarm_ray.cli.datasets.tokenize import show_tokens
from llamafarm_ray.cli.jobs import ran_as_job
from llamafarm_ray.cli.options import (
    Address,
    BaseModelReference,
    ConfigFile,
    DryRun,
    Home,
    Json,
    NoWait,
    Overrides,
    Overwrite,
    configuration,
    show_resolved,
)
from llamafarm_ray.cli.terminal import begin, console, print_json, stages, table

if TYPE_CHECKING:
    from llamafarm_ray.config import Config
    from llamafarm_ray.data import BuildReport
    from llamafarm_ray.workflows.datasets.create_dataset import CreatedDataset

__all__ = ["command"]


def command(
    source: Annotated[
        list[str] | None,
        typer.Option("--source", help="Folder, document, pattern or URI to read; may be repeated."),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="chatml, sharegpt, alpaca, prompt_completion; preference, kto; text."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Folder for Parquet, or a file (.jsonl, .json, .csv, ...), to write."),
    ] = None,
    base_model: BaseModelReference = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Stop at the first document, file or record that can't be used instead of skipping it."
        ),
    ] = False,
    overwrite: Overwrite = False,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    home: Home = None,
    address: Address = None,
    no_wait: NoWait = False,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Print requests, tokens and cost of what an endpoint writes, and ask nothing."),
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Build a training set: questions and answers, or other examples, from documents, chats or feedback."""
    flags = {
        "dataset.source.path": source[0] if source and len(source) == 1 else source or None,
        "dataset.source.strict": True if strict else None,
        "dataset.preprocessing.format": format_,
        "dataset.path": str(output) if output else None,
        "base_model": base_model,
    }
    config = configuration(config_file, overrides, flags, home=home, address=address)
    if dry_run:
        show_resolved(config)
        return
    if estimate:
        _show_estimate(config, as_json=as_json)
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
    _create(config, overwrite=overwrite, as_json=as_json)


def _create(config: Config, *, overwrite: bool, as_json: bool) -> None:
    """Build the dataset, on a Ray that this process connects to unless none is needed, and print what came of it."""
    begin("Looking at the sources", quiet=as_json)
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.clusters.cluster import connect, ended_by_signals, names_cluster
    from llamafarm_ray.workflows.datasets.create_dataset import check_source, create_dataset

    with contextlib.ExitStack() as stack:
        if check_source(config) or names_cluster(config.cluster.address):
            stack.enter_context(connect(config.cluster.address, on_start=partial(begin, quiet=as_json)))
        else:
            stack.enter_context(ended_by_signals())
        progress = stack.enter_context(stages(quiet=as_json))
        created = create_dataset(
            config, open_registry(config.home), overwrite=overwrite, on_progress=BuildProgress(progress)
        )
    if as_json:
        tokens = {} if created.tokens is None else {"tokens": dataclasses.asdict(created.tokens)}
        print_json({"name": created.name, "path": str(created.path), **created.report.to_dict(), **tokens})
        return
    _show(created)


def _show(created: CreatedDataset) -> None:
    """Print the counts of a dataset, its report's findings and its place."""
    from llamafarm_ray.data import source_lines

    report = created.report
    table(
        f"Dataset {created.name}",
        ("documents", "skipped", "training examples", "held out", "digest"),
        [
            (
                report.documents.read,
                len(report.documents.skipped),
                report.num_train,
                f"{report.num_validation} ({report.held_out})" if report.num_validation else 0,
                report.digest[7:19],
            )
        ],
    )
    _show_findings(report)
    for line in source_lines(report.documents):
        console.print(line, style="yellow", markup=False)
    if created.tokens is not None:
        show_tokens(created.tokens)
    if created.page.is_file():  # a dataset that was there already may be of an earlier release
        console.print(f"Report: {created.page}", markup=False)
    console.print(
        f"Written to {created.path}. Train on it: llamafarm models train --dataset {created.path}", markup=False
    )


def _show_findings(report: BuildReport) -> None:
    """Print the generator's coverage, personal data, and examples added by the base model."""
    if report.generator is not None and report.coverage is not None:
        model = f" ({report.generator.model})" if report.generator.model else ""
        covered, facts = report.coverage.num_covered, report.coverage.num_facts
        console.print(
            f"Pairs by {report.generator.name}{model}: {report.generator.reason} They teach {covered:,} of {facts:,} "
            f"facts ({report.coverage.share:.0%}).",
            markup=False,
        )
    pii = next((step for step in report.steps if step.name == "pii" and (step.noted or step.dropped)), None)
    if pii is not None:
        found = ", ".join(f"{count:,} {what}" for what, count in (pii.noted | pii.dropped).items())
        console.print(f"Personal data: {found}. dataset.quality_control.pii decides.", style="yellow", markup=False)
    for step in report.steps:
        if step.name in {"synthetic_generation", "augmentation"}:
            dropped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(step.dropped.items()))
            console.print(
                f"{step.name}: {step.rows_out:,} examples added, {sum(step.dropped.values()):,} dropped"
                f"{f' ({dropped})' if dropped else ''}.",
                markup=False,
            )


def _show_estimate(config: Config, *, as_json: bool) -> None:
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.datasets.create_dataset import estimate_generation

    found = estimate_generation(config, open_registry(config.home))
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    cost = "prices are not set" if found.cost_usd is None else f"{found.cost_usd:,.4f} US dollars"
    if config.dataset.preprocessing.qa_generation.endpoint.batch:
        cost += f" through the batch API, at {found.price_factor:g} of the usual price"
    more = ""
    if found.expansion_requests:
        more = f" and at most {found.expansion_requests:,} for invented and changed examples"
    console.print(
        f"{found.model}: {found.requests:,} requests for {found.passages:,} passages ({found.stored:,} were answered "
        f"before){more}, about {found.input_tokens:,} tokens in and {found.output_tokens:,} out; {cost}.",
        markup=False,
    )
