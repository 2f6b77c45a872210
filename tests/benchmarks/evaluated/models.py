"""A real model's evaluations: scores and time beside lm-eval's own and a plain loop's, and workers beside one."""

import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.evaluated.report import Report
from mmlu_questions import write_questions

from llamafarm_ray.evaluation.answering import answer_held_out
from llamafarm_ray.evaluation.benchmarks.asked import AskedModel
from llamafarm_ray.evaluation.benchmarks.run import BenchmarkPlan, run_benchmarks
from llamafarm_ray.evaluation.benchmarks.tasks import load_tasks
from llamafarm_ray.evaluation.benchmarks.workers import LocalWorkers, RayWorkers
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.run import EvaluationJob
from llamafarm_ray.models.chat import end_of_turn_ids, render_chat, tokenise_turns
from llamafarm_ray.models.loading import load_model
from llamafarm_ray.models.tokenizer import load_tokenizer

NEW_TOKENS = 24


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return a function's result and the seconds that it took."""
    began = time.perf_counter()
    return function(), time.perf_counter() - began


def measure_lm_eval(report: Report, base: Path, backend: str, tasks: tuple[str, ...]) -> None:
    """Compare scores and time with `lm_eval.simple_evaluate`, called directly on a model of its own."""
    import lm_eval

    with tempfile.TemporaryDirectory() as folder:
        data = write_questions(Path(folder) / "mmlu")
        workers = LocalWorkers()
        asked = AskedModel(backend, {"base": base, "adapter": None}, "w")
        plan = BenchmarkPlan(tasks, data, num_fewshot=0)
        loads = [{"role": "user", "content": "Hello"}]  # loading is no part of the time
        workers.answerer(asked).render(loads, add_generation_prompt=True)
        lm = lm_evals_model(backend, base)

        def theirs() -> Any:
            loaded = list(load_tasks(tasks, data).values())
            return lm_eval.simple_evaluate(
                model=lm, tasks=loaded, num_fewshot=0, bootstrap_iters=0, log_samples=True, limit=None
            )["results"]

        timed(theirs)  # warms up caches of tokenizers and kernels
        found, ours_s = timed(lambda: run_benchmarks(plan, asked, workers))
        expected, theirs_s = timed(theirs)
        differing = sum(found[name].metrics["accuracy"] != expected[name]["acc,none"] for name in tasks)
        report.at_most(f"scores other than lm-eval's, {backend}", differing, 0, "")
        report.at_most(f"time beside lm-eval's own, {backend}", ours_s / theirs_s, 1.05, "x")
        print(f"  {ours_s:.1f} s, lm-eval {theirs_s:.1f} s; {dict(found[tasks[0]].metrics)}")


def lm_evals_model(backend: str, base: Path) -> Any:
    """Return lm-eval's own model, as somebody opens it who does without this package."""
    if backend == "vllm":
        from lm_eval.models.vllm_causallms import VLLM

        return VLLM(pretrained=str(base), dtype="float32", enforce_eager=True)
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(base), dtype="float32", device="cpu", batch_size=8)


def measure_workers(report: Report, base: Path, tasks: tuple[str, ...]) -> None:
    """Compare two workers with one, both with their processes and models started."""
    import ray

    with tempfile.TemporaryDirectory() as folder:
        data = write_questions(Path(folder) / "mmlu")
        asked = AskedModel("transformers", {"base": base, "adapter": None}, "w")
        plan, took = BenchmarkPlan(tasks, data, num_fewshot=0), {}
        ray.init(num_cpus=2, include_dashboard=False, configure_logging=False)
        try:
            for number in (1, 2):
                workers = RayWorkers(number)
                run_benchmarks(plan, asked, workers)
                _, took[number] = timed(functools.partial(run_benchmarks, plan, asked, workers))
                workers.close()
        finally:
            ray.shutdown()
        report.at_least("two workers beside one", took[1] / took[2], 1.6, "x")


def measure_held_out(report: Report, base: Path, rows: list[dict[str, Any]]) -> None:
    """Compare the time of perplexity and answers with a plain loop over transformers."""
    job = EvaluationJob(
        MeasuredModel(base, None, "w", "w"), rows, ("perplexity", "rouge"), NEW_TOKENS, "base", baseline=False
    )
    _, ours_s = timed(lambda: answer_held_out(job, lambda *_: None))
    _, theirs_s = timed(lambda: plain_loop(base, rows))
    report.at_least(f"held-out, {len(rows)} examples, beside a plain loop", theirs_s / ours_s, 1.0, "x")
    print(f"  {ours_s:.1f} s, the loop {theirs_s:.1f} s")


def plain_loop(base: Path, rows: list[dict[str, Any]]) -> None:
    """Measure losses and answers example by example, as one writes it without this package."""
    tokenizer, model = load_tokenizer(base), load_model(base, dtype=torch.float32).eval()
    ends = end_of_turn_ids(tokenizer)
    with torch.inference_mode():
        for row in rows:
            (chat,) = tokenise_turns(tokenizer, row["messages"])
            labels = [token if trained else -100 for token, trained in zip(chat.input_ids, chat.trained, strict=True)]
            model(input_ids=torch.tensor([chat.input_ids]), labels=torch.tensor([labels]))
            prompt = render_chat(tokenizer, row["messages"][:-1], for_answer=True)
            given = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
            model.generate(**given, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=ends)


def rows_of_questions(number: int) -> list[dict[str, Any]]:
    """Return questions of lm-eval's wheel with their right choice as chats."""
    from mmlu_questions import questions

    asked = [row for rows in questions().values() for row in rows][:number]
    return [
        {
            "id": str(at),
            "messages": [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["choices"][row["answer"]]},
            ],
        }
        for at, row in enumerate(json.loads(json.dumps(asked)))
    ]
