"""Measure a model on examples, questions and benchmarks, beside its base or another model."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from llamafarm_ray.config import Config
from llamafarm_ray.data import check_dataset, open_dataset
from llamafarm_ray.errors import InputError, PolicyError
from llamafarm_ray.evaluation import EvaluationResult, evaluate
from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.benchmarks.compare import compare_benchmarks
from llamafarm_ray.evaluation.benchmarks.run import BenchmarkPlan
from llamafarm_ray.evaluation.benchmarks.store import ResultStore
from llamafarm_ray.evaluation.benchmarks.tasks import check_installed
from llamafarm_ray.evaluation.benchmarks.workers import RayWorkers
from llamafarm_ray.evaluation.custom.description import find_sets
from llamafarm_ray.evaluation.custom.sets import CustomSet, failing
from llamafarm_ray.evaluation.kept import KeptBatches
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.rag.exam import CLOSED_BOOK
from llamafarm_ray.evaluation.remote import before_each, metered, run_on_ray
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.datasets.contamination import Decontamination
from llamafarm_ray.workflows.evaluation.backend import asked_models, backend_of, check_backend, measured_on
from llamafarm_ray.workflows.evaluation.garak import GarakPlan
from llamafarm_ray.workflows.evaluation.judge import JudgePlan, LabeledRows
from llamafarm_ray.workflows.evaluation.model import EvaluatedModel, fetch_models
from llamafarm_ray.workflows.evaluation.provenance import code_digest
from llamafarm_ray.workflows.evaluation.questions import Exam, exam_of_files, exam_of_rows
from llamafarm_ray.workflows.evaluation.risk import RiskPlan, plan_risks
from llamafarm_ray.workflows.evaluation.sentence_ranking import ranked_by_base_model
from llamafarm_ray.workflows.evaluation.stored_sets import StoredSets
from llamafarm_ray.workflows.versions.training_data import TrainingData, joined

__all__ = ["EvaluationRun"]

RAG_ACCURACY = "rag_accuracy"
"""The metric that asks with retrieved passages."""

_KEPT = "evaluation-answers"
"""Folder of the answers of evaluations under way, below the home."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class EvaluationRun:
    """An evaluation that can start: everything that can be known to be wrong without a cluster was looked at.

    Attributes:
        config: ``evaluation`` lists the measurements.
        rival: the model to compare with; None: the base without the adapter.
        examples: the dataset with the examples; None where questions alone are asked.
        whole: True to ask all of ``examples``, False to ask the held-out split.
        exam: the questions; None without any.
        risks: risk tests; None if none are asked for.
        home: keeps results of benchmarks, and the use of devices.
        garak: probes of a deployed model; None if they are not asked for.
        judge: judges answers; None if no judge is named.
        decontamination: compares what is asked with the training data.
        stored: registered sets among what is asked.
    """

    config: Config
    model: EvaluatedModel
    rival: EvaluatedModel | None
    examples: Path | None
    whole: bool
    exam: Exam | None
    custom: tuple[CustomSet, ...] = ()
    risks: RiskPlan | None = None
    home: Location | None = None
    garak: GarakPlan | None = None
    judge: JudgePlan | None = None
    decontamination: Decontamination | None = None
    stored: StoredSets = field(default_factory=StoredSets)

    @classmethod
    def prepare(cls, config: Config, registry: RegistryApi, model: str, baseline: str | None = None) -> Self:
        """Check an evaluation before Ray is started or asked.

        Args:
            config: ``evaluation.test_set`` or the held-out split of ``dataset.path`` is asked, and
                ``evaluation.questions``.
            registry: registry to look models up in.
            model: a folder that `train` wrote, or a registered version.
            baseline: the model to compare with, likewise; None: the base without the adapter.

        Raises:
            UnsupportedError: benchmarks are asked for, and lm-eval is not installed.
            InputError: there is nothing to evaluate on, or a model is unusable.
            NotFoundError: there is no such model.
        """
        asked = config.evaluation
        test_set = asked.test_set if asked.holdout_ratio is None else None
        examples = _examples(config, test_set)
        if asked.benchmarks:
            check_installed()
        stored = StoredSets.find(config, registry)
        custom = find_sets(asked.custom_evaluations, taken=asked.benchmarks, files=stored.custom_files)
        if examples is not None:
            check_dataset(examples)
        # The rival's base is its own, whatever the configuration says of the model's.
        other = config.model_copy(update={"base_model": None})
        rival = EvaluatedModel.find(other, registry, baseline) if baseline is not None else None
        found = EvaluatedModel.find(config, registry, model)
        has_texts = bool(examples or asked.questions or asked.custom_evaluations or asked.risk)
        if has_texts or asked.benchmarks or rival is not None:
            check_backend(asked, found, rival)
        applied = stored.applied(config)
        trained = _trained(config, registry, found, rival, is_compared=bool(custom) or test_set is not None)
        sets = Decontamination([one for of_model in trained for one in of_model], leaves_out=asked.decontaminate)
        if asked.benchmarks and applied.evaluation.benchmark_data is not None:
            sets.note_benchmarks(Path(applied.evaluation.benchmark_data).expanduser())
        exam = exam_of_files(applied, sets, registry.home)
        custom = tuple(map(sets.clean_set, custom))
        judge = JudgePlan.of(config, registry.home.uri, _labeled(exam, custom))
        return cls(
            applied,
            found,
            rival,
            examples,
            test_set is not None,
            exam,
            custom,
            plan_risks(config, exam, joined(trained[0])) if asked.risk else None,
            registry.home,
            GarakPlan.of(config, found),
            judge,
            sets,
            stored,
        )

    def run(self, *, on_progress: Progress | None = None) -> EvaluationResult:
        """Measure. Needs a connected Ray.

        Args:
            on_progress: called with a stage and the fraction of it that is done.

        Raises:
            InputError: there are no held-out examples, or none that can be measured.
        """
        if self.home is None:
            return self._run(on_progress)
        models = [one for one in (self.model, self.rival) if one is not None]
        meter = self.model.meter(self.home, self.config.name)
        with before_each(functools.partial(fetch_models, models, self.home.uri)), meter, metered(meter.add):
            return self._run(on_progress)

    def _run(self, on_progress: Progress | None) -> EvaluationResult:
        asked, benchmarks = self.config.evaluation, set[str]()
        found = [] if self.examples is None else self._held_out(self.examples, on_progress)
        if self.exam is not None:
            found.append(self._ask(self.exam, on_progress))
        if self.custom or self.looks_at_general_texts:
            found.append(self._measure(on_progress))
        if asked.benchmarks:
            found.append(self._run_benchmarks(on_progress))
            benchmarks = {*found[-1].benchmarks, *found[-1].risk}
        if self.risks is not None:
            found.append(self._provoke(self.risks, on_progress))
        if self.garak is not None:
            model_id, digests = self.model.model_id, self._digests()
            found.append(self.garak.measure(model_id=model_id, digests=digests, on_progress=on_progress))
        kept = self._kept()
        if kept is not None:
            kept.clear()
        compared = self.decontamination.report if self.decontamination is not None else None
        result = replace(functools.reduce(EvaluationResult.with_results, found), contamination=compared)
        result = self.stored.note(result, dict(zip(asked.custom_evaluations, self.custom, strict=True)), benchmarks)
        result = result if self.judge is None else self.judge.judge_result(result)
        return result if self.rival is None else result.compared_with(self.rival.name_as_baseline)

    @property
    def looks_at_general_texts(self) -> bool:
        """True if general texts are measured: there is a model to compare with."""
        has_baseline = self.rival is not None or measured_on(self.config.evaluation, self.model).has_base
        return self.config.evaluation.forgetting and has_baseline

    def _held_out(self, path: Path, on_progress: Progress | None) -> list[EvaluationResult]:
        settings = self.config.evaluation
        # A test set is measured whole: nothing of it is held out.
        ratio = None if self.whole else self.config.dataset.validation.split_ratio
        splits = open_dataset(path, split_ratio=ratio, seed=self.config.seed)
        asked = splits.train if self.whole else splits.validation
        if asked is None:
            raise InputError(
                f"{path} has no held-out examples.",
                hint="Set dataset.validation.split_ratio to what training held out.",
            )
        # Sorted here: held-out examples are few, and Ray's sort takes longer than measuring them.
        rows = sorted(asked.take_all(), key=lambda row: str(row["id"]))[: settings.max_examples]
        if self.whole and self.decontamination is not None:
            rows = self.decontamination.clean("test_set", rows, [_last_question(row) for row in rows])
        found = []
        metrics = tuple(metric for metric in settings.metrics if metric != RAG_ACCURACY)
        if metrics:
            model, rival = self._measured()
            result = evaluate(
                model=model,
                rows=rows,
                metrics=metrics,
                max_new_tokens=settings.max_new_tokens,
                model_id=self.model.model_id,
                rival=rival,
                workers=settings.workers,
                on_progress=on_progress,
            )
            found.append(self._with_digests(result, rows))
        if RAG_ACCURACY in settings.metrics and self.exam is None:
            others = [] if self.whole else splits.train.select_columns(["document", "passage"]).take_all()
            found.append(self._ask(exam_of_rows(self.config, rows, others, self.home), on_progress))
        return found

    def _ask(self, exam: Exam, on_progress: Progress | None) -> EvaluationResult:
        exam = ranked_by_base_model(exam, self.config.evaluation, self.model.base, self.home, on_progress)
        result = exam.ask(
            *self._measured(),
            model_id=self.model.model_id,
            max_new_tokens=self.config.evaluation.max_new_tokens,
            digests=self._digests(),
            on_progress=on_progress,
        )
        if exam.kept is not None:
            exam.kept.clear()
        return result

    def _provoke(self, risks: RiskPlan, on_progress: Progress | None) -> EvaluationResult:
        return risks.measure(
            *self._measured(),
            model_id=self.model.model_id,
            digests=self._digests(),
            on_progress=on_progress,
        )

    def _measure(self, on_progress: Progress | None) -> EvaluationResult:
        model, rival = self._measured()
        settings = {
            "model": model,
            "rival": rival,
            "model_id": self.model.model_id,
            "custom": self.custom,
            "max_new_tokens": self.config.evaluation.max_new_tokens,
            "general": self.looks_at_general_texts,
        }
        result: EvaluationResult = run_on_ray(
            "llamafarm_ray.evaluation.measuring:measure_settings", settings, on_progress
        )
        known = {
            name: replace(scores, digests={**self._digests(), **(scores.digests or {})})
            for name, scores in result.benchmarks.items()
        }
        return replace(result, benchmarks=known)

    def _run_benchmarks(self, on_progress: Progress | None) -> EvaluationResult:
        asked = self.config.evaluation
        data = Path(asked.benchmark_data).expanduser().absolute() if asked.benchmark_data is not None else None
        plan = BenchmarkPlan(
            asked.benchmarks, data, asked.num_fewshot, asked.benchmark_chat_template, asked.max_examples
        )
        model, baseline = asked_models(asked, self.model, self.rival)
        workers = RayWorkers(asked.workers)
        try:
            return compare_benchmarks(
                plan,
                model,
                baseline,
                workers,
                model_id=self.model.model_id,
                store=ResultStore(self.home) if self.home is not None else None,
                report=on_progress or (lambda _what, _done: None),
            )
        finally:
            workers.close()

    def regressions(self, result: EvaluationResult) -> list[Answered]:
        """Return the wrong answers of sets that must pass."""
        return [one for asked in self.custom for one in failing(asked, result.answered)]

    def check_regressions(self, result: EvaluationResult) -> None:
        """Refuse a result with wrong answers in a set that must pass.

        Raises:
            PolicyError: there are some; it names the sets and the first answer.
        """
        wrong = self.regressions(result)
        if wrong:
            counts = Counter(one.benchmark for one in wrong)
            listed = ", ".join(f"{number} of {name}" for name, number in counts.items())
            raise PolicyError(
                f"Answers of sets that must pass are wrong: {listed}.",
                rules=tuple(counts),
                hint=f"For example {wrong[0].id!r}: {wrong[0].answer[:80]!r}.",
            )

    def _kept(self) -> KeptBatches | None:
        """Return the answers that a killed evaluation of this model has so far; None without a home."""
        if self.home is None:
            return None
        digest = Digest.of(f"{code_digest()} {self.model.weights}".encode())
        return KeptBatches(self.home, f"{_KEPT}/{digest.removeprefix('sha256:')}")

    def _measured(self) -> tuple[MeasuredModel, MeasuredModel | None]:
        """Return the model and its rival as measurements take them, with the answers that they gave so far."""
        kept, asked = self._kept(), self.config.evaluation
        rival = measured_on(asked, self.rival, kept) if self.rival is not None else None
        return measured_on(asked, self.model, kept), rival

    def _digests(self) -> dict[str, str]:
        return {
            "weights": self.model.weights,
            "code": code_digest(),
            "backend": backend_of(self.config.evaluation, self.model),
        }

    def _with_digests(self, result: EvaluationResult, rows: list[dict[str, object]]) -> EvaluationResult:
        scores = result.benchmarks["held_out"]
        asked = [[row["messages"], row.get("tools")] for row in rows]
        data = Digest.of(json.dumps(asked, sort_keys=True).encode())
        settings = Digest.of(str(self.config.evaluation.max_new_tokens).encode())
        digests = {**self._digests(), **(scores.digests or {}), "data": data, "settings": settings}
        return replace(result, benchmarks={**result.benchmarks, "held_out": replace(scores, digests=digests)})


def _examples(config: Config, test_set: str | None) -> Path | None:
    """Return the folder of the examples that are asked; None where questions alone are.

    Raises:
        InputError: there are neither.
    """
    asked, path = config.evaluation, test_set or config.dataset.path
    others = (asked.questions, asked.custom_evaluations, asked.benchmarks, asked.risk, asked.garak.python)
    if path is None and not any(others):
        raise InputError(
            "There is nothing to evaluate on.",
            hint="Give a dataset with --dataset, or --questions and --corpus, --benchmark, --custom, --risk or "
            "--garak.",
        )
    return Path(path).expanduser() if path is not None else None


def _trained(
    config: Config, registry: RegistryApi, model: EvaluatedModel, rival: EvaluatedModel | None, *, is_compared: bool
) -> list[list[TrainingData]]:
    """Return the training data of both models and of their ancestors, where something that is asked is compared."""
    asked = config.evaluation
    compares = is_compared or asked.risk or asked.questions or asked.benchmark_data
    models = (model, rival) if compares else ()
    return [one.training_data(config, registry) for one in models if one is not None]


def _last_question(row: Mapping[str, Any]) -> str:
    """Return the last turn of the user in a row."""
    return next((str(turn["content"]) for turn in reversed(row["messages"]) if turn["role"] == "user"), "")


def _labeled(exam: Exam | None, custom: tuple[CustomSet, ...]) -> dict[str, LabeledRows]:
    """Return the rows of questions by set; those of an exam belong to its first mode."""
    found: dict[str, LabeledRows] = {
        asked.name: [(one.prompt, one.accepted, one.row) for one in asked.questions] for asked in custom
    }
    if exam is not None:
        rows = [(one.question.question, one.question.answers, one.question.more) for one in exam.asked]
        found[CLOSED_BOOK] = rows
    return found
