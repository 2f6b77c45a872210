"""``llamafarm models evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from llamafarm_ray.cli.terminal import begin, console, errors, facts, print_json, stages, table
from llamafarm_ray.errors import AccessDeniedError

if TYPE_CHECKING:
    from llamafarm_ray.evaluation import EvaluationResult
    from llamafarm_ray.evaluation.answered import Answered

__all__ = ["command", "show_evaluation", "show_failing"]

_MAX_SHOWN = 20


def command(
    model: Annotated[str, typer.Option("--model", help="Folder that `train` wrote, or a registered version.")],
    dataset: Annotated[str | None, typer.Option("--dataset", help="Its held-out examples are asked.")] = None,
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", help="lm-eval's task: mmlu, hellaswag, ...")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Folder with the benchmarks' data; else the hub's.")
    ] = None,
    fewshot: Annotated[
        int | None, typer.Option("--fewshot", min=0, help="Examples before a benchmark's question.")
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Ask benchmarks through the model's chat template.")
    ] = False,
    custom: Annotated[
        list[str] | None, typer.Option("--custom", help="Evaluation of your own: a name, or a file; may be repeated.")
    ] = None,
    questions: Annotated[
        str | None, typer.Option("--questions", help="JSONL file of questions with accepted answers.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option("--corpus", help="Documents that passages are retrieved from for the questions.")
    ] = None,
    risk: Annotated[
        bool, typer.Option("--risk", help="Measure risks: jailbreaks, injected prompts, memorized data, ...")
    ] = False,
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
        "evaluation.custom_evaluations": custom or None,
        "evaluation.questions": questions,
        "evaluation.corpus": corpus,
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
    begin("Opening the model", quiet=as_json)
    from llamafarm_ray.evaluation.report import ResultPage, write_report
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.cluster import connect
    from llamafarm_ray.workflows.evaluate import EvaluationRun, store_result, write_result

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


def show_failing(answers: Sequence[Answered]) -> None:
    """Print the wrong answers of sets that must pass."""
    rows = [
        (one.benchmark, one.id, one.prompt, " / ".join(one.accepted), one.answer or one.failure)
        for one in answers[:_MAX_SHOWN]
    ]
    if rows:
        more = f", the first {_MAX_SHOWN} of {len(answers)}" if len(answers) > _MAX_SHOWN else ""
        table(f"Wrong answers of sets that must pass{more}", ("set", "id", "question", "right", "answer"), rows)


def show_evaluation(result: EvaluationResult) -> None:
    """Scores beside the baseline's, and what their differences are worth."""
    rows = [
        (
            f"{benchmark} {metric}",
            _number((scores.baseline or {}).get(metric)),
            _number(value),
            _interval(scores.intervals or {}, metric),
            _difference(scores.comparison or {}, metric),
        )
        for benchmark, scores in result.scores()
        for metric, value in scores.metrics.items()
    ]
    counts = {scores.num_examples for scores in result.benchmarks.values() if scores.num_examples}
    examples = f" on {' and '.join(map(str, sorted(counts)))} examples" if counts else ""
    table(
        f"{result.model_id}{examples}",
        ("measure", "base", "model", "95 % interval", "difference"),
        rows,
        drop_empty=True,
    )
    _show_contamination(result.contamination or {})
    facts(
        "Requests without a verdict",
        [
            (f"{name}: {reason}", count)
            for name, one in result.scores()
            for reason, count in (one.failures or {}).items()
        ],
    )
    facts("Not measured", [(name, scores.reason) for name, scores in result.scores() if scores.reason])
    facts("RAG integration", [(name, value) for name, value in (result.rag_integration or {}).items()])


def _show_contamination(found: dict[str, Any]) -> None:
    """Print the questions that the training data hold, set by set."""
    sets = {name: one for name, one in found.items() if isinstance(one, dict) and one.get("num_overlapping")}
    for name, one in sets.items():
        left_out = "left out" if one["left_out"] else "asked all the same"
        counts = f"{one['num_overlapping']} of {one['num_questions']} questions of {name}"
        rows = [(each["question"], each["example"], each["training_data"]) for each in one["overlaps"]]
        table(f"{counts} are in the training data ({left_out})", ("question", "trained on", "dataset"), rows)
    reasons = found.get("not_compared", [])
    facts("Questions not compared with training data", [("because", reason) for reason in reasons])


def _interval(intervals: dict[str, tuple[float, float]], metric: str) -> str:
    if metric not in intervals:
        return ""
    low, high = intervals[metric]
    return f"{_number(low)} to {_number(high)}"


def _difference(comparisons: dict[str, dict[str, Any]], metric: str) -> str:
    """Return a difference with its interval and verdict; for noise, about how many examples would decide it."""
    name = metric if metric in comparisons else f"log_{metric}"
    if name not in comparisons:
        return ""
    comparison = comparisons[name]
    low, high, needed = (comparison.get(name) for name in ("low", "high", "examples_needed"))
    scale = "" if name == metric else "log "
    interval = "" if low is None or high is None else f" ({low:+.3f} to {high:+.3f})"
    decided = f"; about {needed:,} examples would decide it" if needed else ""
    return f"{scale}{comparison['difference']:+.3f}{interval} {comparison['verdict']}{decided}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}" if abs(value) < _LARGE else f"{value:,.0f}"


_LARGE = 1000
"""From here on a score is shown without decimals."""
