"""``llamafarm models evaluate``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.evaluate_view import show_evaluation, show_failing
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
from llamafarm_ray.cli.terminal import begin, console, errors, print_json, stages
from llamafarm_ray.errors import AccessDeniedError

if TYPE_CHECKING:
    from llamafarm_ray.config import Config

__all__ = ["command"]


def command(
    model: Annotated[str, typer.Option("--model", help="Folder that `train` wrote, or a registered version.")],
    dataset: Annotated[str | None, typer.Option("--dataset", help="Its held-out examples are asked.")] = None,
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", help="lm-eval's task: mmlu, hellaswag, ...")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Folder with the benchmarks' data, or a registered set; else the hub's."),
    ] = None,
    fewshot: Annotated[
        int | None, typer.Option("--fewshot", min=0, help="Examples before a benchmark's question.")
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Ask benchmarks through the model's chat template.")
    ] = False,
    backend: Annotated[
        str | None, typer.Option("--backend", help="Benchmarks' engine: transformers, vllm, gguf or endpoint.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Address up to /v1: benchmarks and --garak ask the model there.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Ray workers that benchmarks and examples are shared among.")
    ] = None,
    custom: Annotated[
        list[str] | None,
        typer.Option("--custom", help="Evaluation of your own: a name, a file or a registered set; may be repeated."),
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option("--questions", help="JSONL file of questions with accepted answers, or a registered set."),
    ] = None,
    corpus: Annotated[
        str | None, typer.Option("--corpus", help="Documents that passages are retrieved from for the questions.")
    ] = None,
    retriever: Annotated[
        str | None, typer.Option("--retriever", help="Address of a retriever of your own, asked in place of ours.")
    ] = None,
    risk: Annotated[
        bool, typer.Option("--risk", help="Measure risks: jailbreaks, injected prompts, memorized data, ...")
    ] = False,
    garak: Annotated[
        str | None,
        typer.Option("--garak", help="Python with garak installed: its probes are asked at --endpoint, as the model."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", help="Model of an OpenAI-compatible endpoint that judges answers.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Model to compare with, if not an adapter's base.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="An adapter's base, if not the one it names.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="JSON file to write the results to.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="HTML file to write: slices and worst answers.")
    ] = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    offline: Offline = False,
    home: Home = None,
    address: Address = None,
    no_wait: NoWait = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Measure a model on examples, questions and benchmarks, beside its base or another model."""
    from llamafarm_ray.config.evaluation import RISKS

    stay_offline(offline)
    flags = {
        "dataset.path": dataset,
        "base_model": base_model,
        "evaluation.benchmarks": benchmark or None,
        "evaluation.benchmark_data": data,
        "evaluation.num_fewshot": fewshot,
        "evaluation.benchmark_chat_template": chat_template or None,
        "evaluation.benchmark_backend": backend,
        "evaluation.workers": workers,
        "evaluation.endpoint.base_url": endpoint,
        "evaluation.custom_evaluations": custom or None,
        "evaluation.questions": questions,
        "evaluation.corpus": corpus,
        "evaluation.retriever.url": retriever,
        "evaluation.garak.python": garak,
        "evaluation.judge.model": judge,
        "evaluation.risk": list(RISKS) if risk else None,
    }
    config = configuration(config_file, overrides, flags, home=home, address=address)
    if dry_run:
        from llamafarm_ray.config import resolved

        print_json(resolved(config))
        return
    if ran_as_job(
        "evaluate",
        config,
        inputs={"--model": model, "--baseline": baseline},
        outputs={"--output": output, "--report": report},
        flags={"--offline": offline},
        no_wait=no_wait,
        as_json=as_json,
    ):
        return
    _evaluate(config, model, baseline, output=output, report=report, as_json=as_json)


def _evaluate(
    config: Config, model: str, baseline: str | None, *, output: Path | None, report: Path | None, as_json: bool
) -> None:
    """Measure a model, and show, write and record the result; a wrong answer of a set that must pass is an error."""
    begin("Opening the model", quiet=as_json)
    from llamafarm_ray.evaluation.report import ResultPage, write_report
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.cluster import connect
    from llamafarm_ray.workflows.evaluation.results import store_result, write_result
    from llamafarm_ray.workflows.evaluation.run import EvaluationRun

    registry = open_registry(config.home)
    run = EvaluationRun.prepare(config, registry, model, baseline)
    with connect(config.cluster.address, on_start=partial(begin, quiet=as_json)), stages(quiet=as_json) as progress:
        result = run.run(on_progress=progress)
    if as_json:
        print_json(result.to_dict())
    else:
        show_evaluation(result)
    if output is not None:  # after it was shown: it took long, and a full disk shall not lose it
        write_result(result, output)
    if report is not None:
        write_report(report, ResultPage(result))
    for path in (output, report) if not as_json else ():
        if path is not None:
            console.print(f"Written to {path}.", markup=False)
    try:
        stored = store_result(registry, run.model, result)
    except AccessDeniedError as error:  # a viewer may measure, and read what it prints
        errors.line(f"Not recorded on {run.model.version}: {error.message}")
        stored = None
    if stored is not None and not as_json:
        console.print(f"Recorded on {stored}.", markup=False)
    if not as_json:
        show_failing(run.regressions(result))
    run.check_regressions(result)
