"""``llamafarm models evaluate``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llamafarm_ray.cli.evaluation.options import (
    Backend,
    Baseline,
    BenchmarkData,
    Benchmarks,
    ChatTemplate,
    Corpus,
    CustomSets,
    Endpoint,
    EvaluatedReference,
    Fewshot,
    Garak,
    Judge,
    Questions,
    ReportPage,
    ResultFile,
    Retriever,
    Risk,
    TestedDataset,
    Workers,
)
from llamafarm_ray.cli.evaluation.view import show_evaluation, show_failing
from llamafarm_ray.cli.jobs import ran_as_job
from llamafarm_ray.cli.options import (
    AdapterBase,
    Address,
    ConfigFile,
    DryRun,
    Home,
    Json,
    NoWait,
    Offline,
    Overrides,
    configuration,
    show_resolved,
    stay_offline,
)
from llamafarm_ray.cli.terminal import begin, console, errors, print_json, stages
from llamafarm_ray.errors import AccessDeniedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamafarm_ray.config import Config

__all__ = ["command"]


def command(
    model: EvaluatedReference,
    dataset: TestedDataset = None,
    benchmark: Benchmarks = None,
    data: BenchmarkData = None,
    fewshot: Fewshot = None,
    chat_template: ChatTemplate = False,
    backend: Backend = None,
    endpoint: Endpoint = None,
    workers: Workers = None,
    custom: CustomSets = None,
    questions: Questions = None,
    corpus: Corpus = None,
    retriever: Retriever = None,
    risk: Risk = False,
    garak: Garak = None,
    judge: Judge = None,
    baseline: Baseline = None,
    base_model: AdapterBase = None,
    output: ResultFile = None,
    report: ReportPage = None,
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
    from llamafarm_ray.config.sections.evaluation import RISKS

    stay_offline(offline)
    flags = {
        "dataset.path": dataset,
        "base_model": base_model,
        "evaluation.benchmarks": benchmark or None,
        "evaluation.benchmark_data": data,
        "evaluation.num_fewshot": fewshot,
        "evaluation.benchmark_chat_template": chat_template or None,
        "evaluation.backend": backend,
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
        show_resolved(config)
        return
    files = {"--output": output, "--report": report}
    if not _ran_as_job(config, model, baseline, files, offline=offline, no_wait=no_wait, as_json=as_json):
        _evaluate(config, model, baseline, output=output, report=report, as_json=as_json)


def _ran_as_job(
    config: Config,
    model: str,
    baseline: str | None,
    files: Mapping[str, Path | None],
    *,
    offline: bool,
    no_wait: bool,
    as_json: bool,
) -> bool:
    """Evaluate as a job if the address is a job server's, see `ran_as_job`; its files come back."""
    return ran_as_job(
        "evaluate",
        config,
        inputs={"--model": model, "--baseline": baseline},
        outputs=files,
        flags={"--offline": offline},
        no_wait=no_wait,
        as_json=as_json,
        returns_files=True,
    )


def _evaluate(
    config: Config, model: str, baseline: str | None, *, output: Path | None, report: Path | None, as_json: bool
) -> None:
    """Measure a model, and show, write and record the result; a wrong answer of a set that must pass is an error."""
    begin("Opening the model", quiet=as_json)
    from llamafarm_ray.evaluation.report import ResultPage, write_report
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.clusters.cluster import connect
    from llamafarm_ray.workflows.evaluation.results import store_result, write_result
    from llamafarm_ray.workflows.evaluation.run import EvaluationRun
    from llamafarm_ray.workflows.jobs.returned import returned_lines

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
    for option, path in (("--output", output), ("--report", report)):
        if path is not None:
            sys.stdout.writelines(returned_lines(option, path))
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
