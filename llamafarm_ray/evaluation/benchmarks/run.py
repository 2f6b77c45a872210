"""Run benchmarks by lm-eval, with a model that workers ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.benchmarks.asked import AskedModel
from llamafarm_ray.evaluation.benchmarks.digests import Inputs, digest_of, task_digests
from llamafarm_ray.evaluation.benchmarks.scores import scores_of
from llamafarm_ray.evaluation.benchmarks.store import ResultStore
from llamafarm_ray.evaluation.benchmarks.tasks import leaves, load_tasks, task_manager
from llamafarm_ray.evaluation.benchmarks.workers import Workers
from llamafarm_ray.evaluation.kept import KeptBatches
from llamafarm_ray.evaluation.result import BenchmarkScores

if TYPE_CHECKING:
    from lm_eval.api.model import LM

__all__ = ["BenchmarkPlan", "run_benchmarks"]

SEEDS: Final = {"random_seed": 0, "numpy_random_seed": 1234, "torch_random_seed": 1234, "fewshot_random_seed": 1234}
"""lm-eval's own defaults, said here because they are part of the key of a stored result."""


@dataclass(frozen=True, slots=True)
class BenchmarkPlan:
    """Benchmarks and the way to ask them.

    Args:
        names: lm-eval's tasks, groups or tags.
        data: folder with their data; None takes it from the hub.
        num_fewshot: examples before each question; None for each task's own number.
        limit: questions a task; None for all.
    """

    names: tuple[str, ...]
    data: Path | None = None
    num_fewshot: int | None = None
    chat_template: bool = False
    limit: int | None = None


def run_benchmarks(
    plan: BenchmarkPlan,
    model: AskedModel,
    workers: Workers,
    *,
    store: ResultStore | None = None,
    on_progress: Callable[[str, float], None] = lambda _what, _done: None,
) -> dict[str, BenchmarkScores]:
    """Return the scores of each benchmark; they don't depend on the number of workers.

    Args:
        store: store of the results; it answers for equal inputs, and a run that was killed continues from it.
        on_progress: called with a benchmark's name and the fraction of all that is done.

    Raises:
        UnsupportedError: lm-eval is not installed, or the backend can't answer.
        InputError: there is no such task, its data can't be read, or it needs a chat template that the model lacks.
    """
    template = workers.fact(model, "chat_template")
    if plan.chat_template and not template:
        raise InputError("The model has no chat template.", hint="Ask without it, or take a chat model.")
    tasks = load_tasks(plan.names, plan.data)
    found = {}
    for number, (name, task) in enumerate(tasks.items()):
        _set_shots(leaves({name: task}), plan.num_fewshot)
        inputs = _inputs(plan, {name: task}, model, template, workers.fact(model, "precision"))

        def report(done: float, name: str = name, number: int = number) -> None:
            on_progress(name, (number + done) / len(tasks))

        lm_of = partial(_lm, workers, model, has_template=plan.chat_template, on_progress=report)
        found[name] = _measure(plan, name, task, inputs, lm_of, store=store if model.keeps else None)
        report(1.0)
    return found


def _measure(
    plan: BenchmarkPlan,
    name: str,
    task: object,
    inputs: Inputs,
    lm_of: Callable[[KeptBatches | None], LM],
    *,
    store: ResultStore | None,
) -> BenchmarkScores:
    known = store.find(inputs) if store is not None else None
    if known is not None:
        return replace(known, digests=asdict(inputs))
    from lm_eval import simple_evaluate  # an extra

    chunks = store.chunks(inputs) if store is not None else None
    results = simple_evaluate(
        model=lm_of(chunks),
        tasks=[task],
        task_manager=task_manager(),  # it takes seconds to make
        num_fewshot=plan.num_fewshot,
        limit=plan.limit,
        apply_chat_template=plan.chat_template,
        log_samples=True,  # the scores of each question
        bootstrap_iters=0,
        **SEEDS,
    )
    scores = scores_of(results, name)
    if store is not None and chunks is not None:
        store.keep(inputs, scores)
        chunks.clear()
    return replace(scores, digests=asdict(inputs))


def _lm(workers: Workers, model: AskedModel, chunks: KeptBatches | None, **options: Any) -> LM:
    from llamafarm_ray.evaluation.benchmarks.chunked_lm import ChunkedLM  # it needs lm-eval

    return ChunkedLM(workers, model, chunks, **options)


def _set_shots(tasks: Mapping[str, Any], num_fewshot: int | None) -> None:
    """Set the number of examples as lm-eval does, before the data that they take is digested."""
    for task in tasks.values():
        own = task.get_config("num_fewshot")
        if own != 0:  # a task that says none never gets any
            task.set_config(key="num_fewshot", value=num_fewshot if num_fewshot is not None else own or 0)


def _inputs(
    plan: BenchmarkPlan, tasks: Mapping[str, object], model: AskedModel, template: str, precision: str
) -> Inputs:
    data, code = task_digests(leaves(tasks))
    settings = {"limit": plan.limit, "num_fewshot": plan.num_fewshot, **SEEDS, "dtype": precision}
    of_template = digest_of(template) if plan.chat_template else ""
    return Inputs(model.weights, data, code, of_template, digest_of(settings), model.backend)
