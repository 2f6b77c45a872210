"""Measure a model on held-out examples and on questions, beside its base or another model."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from llamafarm_ray.config import Config, refuse_unavailable
from llamafarm_ray.data import check_dataset, open_dataset
from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation import EvaluationResult, evaluate
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.storage.manifest import Manifest
from llamafarm_ray.types import Digest, ModelKind
from llamafarm_ray.workflows.base import usable_base
from llamafarm_ray.workflows.provenance import BACKEND, code_digest, weights_digest
from llamafarm_ray.workflows.questions import Exam, exam_of_files, exam_of_rows
from llamafarm_ray.workflows.register import base_reference

__all__ = ["EvaluatedModel", "EvaluationRun", "store_result", "write_result"]

RAG_ACCURACY = "rag_accuracy"
"""The metric that asks with retrieved passages."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """A model to measure.

    Attributes:
        model_id: name of the model in results.
        base: the base model's folder, or the whole model's.
        adapter: the adapter's folder; None for a whole model.
        weights: digest of its files.
        version: reference of its registered version; empty for a folder.
    """

    model_id: str
    base: Path
    adapter: Path | None
    weights: str
    version: str = ""

    @property
    def folders(self) -> tuple[Path, Path | None]:
        """The folders of the base model and of the adapter."""
        return self.base, self.adapter

    @classmethod
    def find(cls, config: Config, registry: RegistryApi, model: str) -> Self:
        """Find a folder that `train` wrote, or a registered version.

        Raises:
            InputError: the model is unusable, or its base is another one.
            NotFoundError: there is no such model.
        """
        folder = Path(model).expanduser()
        if not folder.is_dir():
            return cls._of_version(config, registry, model)
        adapter = folder if (folder / "adapter_config.json").is_file() else None
        base = usable_base(config.base_model or base_reference(folder) if adapter else model, registry)
        own = Manifest.of_folder(adapter).digest if adapter else None
        return cls(folder.resolve().name, base.folder, adapter, weights_digest(base.digest, own))

    @classmethod
    def _of_version(cls, config: Config, registry: RegistryApi, model: str) -> Self:
        record = registry.resolve(model)
        registered = record.registered
        pulled = registry.pull(record.ref)
        if registered.kind is not ModelKind.ADAPTER:
            return cls(record.ref, pulled, None, weights_digest(registered.manifest, None), record.ref)
        base = usable_base(config.base_model or registered.base_model, registry)
        if base.digest != registered.base_digest:
            raise InputError(
                f"{base.reference} is not the base {record.ref} was trained on: their digests differ.",
                hint="Set base_model to the folder it was trained on.",
            )
        weights = weights_digest(base.digest, registered.manifest)
        return cls(record.ref, base.folder, pulled, weights, record.ref)


@dataclass(frozen=True, slots=True)
class EvaluationRun:
    """An evaluation that can start: everything that can be known to be wrong without a cluster was looked at.

    Attributes:
        config: ``evaluation`` says what is measured.
        model: the model.
        rival: the model to compare with; None: the base without the adapter.
        examples: the dataset with the examples; None where questions alone are asked.
        whole: whether all of ``examples`` are asked, or the held-out split.
        exam: the questions; None without any.
    """

    config: Config
    model: EvaluatedModel
    rival: EvaluatedModel | None
    examples: Path | None
    whole: bool
    exam: Exam | None

    @classmethod
    def prepare(cls, config: Config, registry: RegistryApi, model: str, baseline: str | None = None) -> Self:
        """Check an evaluation before Ray is started or asked.

        Args:
            config: ``evaluation.test_set`` or the held-out split of ``dataset.path`` is asked, and
                ``evaluation.questions``.
            registry: where models may come from.
            model: a folder that `train` wrote, or a registered version.
            baseline: the model to compare with, likewise; None: the base without the adapter.

        Raises:
            UnsupportedError: the configuration asks for what this release does not have.
            InputError: there is nothing to evaluate on, or a model is unusable.
            NotFoundError: there is no such model.
        """
        refuse_unavailable(config, "evaluate")
        test_set = config.evaluation.test_set if config.evaluation.holdout_ratio is None else None
        path = test_set or config.dataset.path
        if path is None and config.evaluation.questions is None:
            raise InputError(
                "There is nothing to evaluate on.", hint="Give a dataset with --dataset, or --questions and --corpus."
            )
        examples = Path(path).expanduser() if path is not None else None
        if examples is not None:
            check_dataset(examples)
        exam = exam_of_files(config)
        # The rival's base is its own, whatever the configuration says of the model's.
        other = config.model_copy(update={"base_model": None})
        rival = EvaluatedModel.find(other, registry, baseline) if baseline is not None else None
        return cls(config, EvaluatedModel.find(config, registry, model), rival, examples, test_set is not None, exam)

    def run(self, *, on_progress: Progress | None = None) -> EvaluationResult:
        """Measure. Needs a connected Ray.

        Args:
            on_progress: called with a stage and the fraction of it that is done.

        Raises:
            InputError: there are no held-out examples, or none that can be measured.
        """
        found = [] if self.examples is None else self._held_out(self.examples, on_progress)
        if self.exam is not None:
            found.append(self._ask(self.exam, on_progress))
        return functools.reduce(EvaluationResult.with_results, found)

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
        found = []
        metrics = tuple(metric for metric in settings.metrics if metric != RAG_ACCURACY)
        if metrics:
            result = evaluate(
                base_model=self.model.base,
                adapter=self.model.adapter,
                rows=rows,
                metrics=metrics,
                max_new_tokens=settings.max_new_tokens,
                model_id=self.model.model_id,
                rival=self.rival.folders if self.rival else None,
                on_progress=on_progress,
            )
            found.append(self._with_digests(result, rows))
        if RAG_ACCURACY in settings.metrics and self.exam is None:
            others = [] if self.whole else splits.train.select_columns(["document", "passage"]).take_all()
            found.append(self._ask(exam_of_rows(self.config, rows, others), on_progress))
        return found

    def _ask(self, exam: Exam, on_progress: Progress | None) -> EvaluationResult:
        return exam.ask(
            self.model.folders,
            self.rival.folders if self.rival else None,
            model_id=self.model.model_id,
            max_new_tokens=self.config.evaluation.max_new_tokens,
            digests=self._digests(),
            on_progress=on_progress,
        )

    def _digests(self) -> dict[str, str]:
        return {"weights": self.model.weights, "code": code_digest(), "backend": BACKEND}

    def _with_digests(self, result: EvaluationResult, rows: list[dict[str, Any]]) -> EvaluationResult:
        scores = result.benchmarks["held_out"]
        data = Digest.of(json.dumps([str(row["id"]) for row in rows]).encode())
        settings = Digest.of(str(self.config.evaluation.max_new_tokens).encode())
        digests = {**self._digests(), **(scores.digests or {}), "data": data, "settings": settings}
        return replace(result, benchmarks={**result.benchmarks, "held_out": replace(scores, digests=digests)})


def store_result(registry: RegistryApi, model: EvaluatedModel, result: EvaluationResult) -> str | None:
    """Record a result on a registered version, beside its results of other benchmarks.

    Returns:
        The version's reference; None for a folder, which has no version.

    Raises:
        AccessDeniedError: the principal may not record metrics.
    """
    if not model.version:
        return None
    known = registry.resolve(model.version).metrics.get("evaluation_results")
    if isinstance(known, Mapping):
        try:
            result = EvaluationResult.from_dict({"evaluation_results": known}).with_results(result)
        except InputError as error:
            raise InputError(
                f"{model.version} has evaluation_results of another shape, which would be lost: {error.message}",
                hint="Evaluate with --output, and register another version.",
            ) from None
    registry.record_metrics(model.version, result.to_dict(), reason="evaluated")
    return model.version


def write_result(result: EvaluationResult, path: Path) -> None:
    """Write a result as JSON, whole or not at all; `register --performance-metrics` reads it.

    A row for each question that was asked is beside the scores.

    Raises:
        InputError: the file can't be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    content = result.to_dict() | ({"questions": result.questions} if result.questions else {})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.rename(path)
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}.", hint="Choose another --output.") from None
