"""Options of ``llamafarm models evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Backend",
    "Baseline",
    "BenchmarkData",
    "Benchmarks",
    "ChatTemplate",
    "Corpus",
    "CustomSets",
    "Endpoint",
    "EvaluatedReference",
    "Fewshot",
    "Garak",
    "Judge",
    "Questions",
    "ReportPage",
    "ResultFile",
    "Retriever",
    "Risk",
    "TestedDataset",
    "Workers",
]

EvaluatedReference = Annotated[str, typer.Option("--model", help="Folder that `train` wrote, or a registered version.")]
TestedDataset = Annotated[str | None, typer.Option("--dataset", help="Its held-out examples are asked.")]
Benchmarks = Annotated[list[str] | None, typer.Option("--benchmark", help="lm-eval's task: mmlu, hellaswag, ...")]
BenchmarkData = Annotated[
    str | None,
    typer.Option("--data", help="Folder with the benchmarks' data, or a registered set; else the hub's."),
]
Fewshot = Annotated[int | None, typer.Option("--fewshot", min=0, help="Examples before a benchmark's question.")]
ChatTemplate = Annotated[
    bool, typer.Option("--chat-template", help="Ask benchmarks through the model's chat template.")
]
Backend = Annotated[str | None, typer.Option("--backend", help="Engine to ask: transformers, vllm, gguf or endpoint.")]
Endpoint = Annotated[
    str | None, typer.Option("--endpoint", help="Address up to /v1: everything is asked of the model there.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Ray workers that benchmarks and examples are shared among.")
]
CustomSets = Annotated[
    list[str] | None,
    typer.Option("--custom", help="Evaluation of your own: a name, a file or a registered set; may be repeated."),
]
Questions = Annotated[
    str | None,
    typer.Option("--questions", help="JSONL file of questions with accepted answers, or a registered set."),
]
Corpus = Annotated[
    str | None, typer.Option("--corpus", help="Documents that passages are retrieved from for the questions.")
]
Retriever = Annotated[
    str | None, typer.Option("--retriever", help="Address of a retriever of your own, asked in place of ours.")
]
Risk = Annotated[bool, typer.Option("--risk", help="Measure risks: jailbreaks, injected prompts, memorized data, ...")]
Garak = Annotated[
    str | None,
    typer.Option("--garak", help="Python with garak installed: its probes are asked at --endpoint, as the model."),
]
Judge = Annotated[
    str | None, typer.Option("--judge", help="Model of an OpenAI-compatible endpoint that judges answers.")
]
Baseline = Annotated[str | None, typer.Option("--baseline", help="Model to compare with, if not an adapter's base.")]
ResultFile = Annotated[Path | None, typer.Option("--output", help="JSON file to write the results to.")]
ReportPage = Annotated[Path | None, typer.Option("--report", help="HTML file to write: slices and worst answers.")]
