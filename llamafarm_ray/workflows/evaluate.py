"""Measure a model on held-out examples, beside the base it was trained from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from llamafarm_ray.config import Config, refuse_unavailable
from llamafarm_ray.data import check_dataset, open_dataset
from llamafarm_ray.errors import InputError, PolicyError
from llamafarm_ray.evaluation import EvaluationResult, evaluate
from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.benchmarks.run import BenchmarkPlan
from llamafarm_ray.evaluation.benchmarks.store import ResultStore
from llamafarm_ray.evaluation.benchmarks.tasks import check_installed
from llamafarm_ray.evaluation.custom.description import find_sets
from llamafarm_ray.evaluation.custom.sets import CustomSet, failing
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.base import usable_base
from llamafarm_ray.workflows.metrics import write_json
from llamafarm_ray.workflows.register import base_reference

__all__ = ["EvaluationRun", "write_result"]


@dataclass(frozen=True, slots=True)
class EvaluationRun:
    """An evaluation that can start: everything that can be known to be wrong without a cluster was looked at.

    Attributes:
        config: ``evaluation`` says what is measured.
        model_id: what the result calls the model.
        base: the base model's folder, or the whole model's.
        adapter: the adapter's folder; none for a whole model.
        examples: the dataset with the examples; none where only custom evaluations are asked.
        whole: whether all of ``examples`` are asked, or the held-out split.
        custom: evaluations of the user's own.
        home: keeps results of benchmarks.
    """

    config: Config
    model_id: str
    base: Path
    adapter: Path | None
    examples: Path | None
    whole: bool
    custom: tuple[CustomSet, ...] = ()
    home: Location | None = None

    @classmethod
    def prepare(cls, config: Config, registry: RegistryApi, model: str) -> Self:
        """Check an evaluation before Ray is started or asked.

        Args:
            config: ``evaluation.test_set`` or the held-out split of ``dataset.path`` is asked.
            registry: where ``model`` may come from.
            model: a folder that `train` wrote, or a registered version.

        Raises:
            UnsupportedError: the configuration asks for what this release does not have.
            InputError: there is nothing to evaluate on, or the model is unusable.
            NotFoundError: there is no such model.
        """
        refuse_unavailable(config, "evaluate")
        test_set = config.evaluation.test_set if config.evaluation.holdout_ratio is None else None
        custom = find_sets(config.evaluation.custom_evaluations)
        path = test_set or config.dataset.path
        if config.evaluation.benchmarks:
            check_installed()
        if path is None and not (custom or config.evaluation.benchmarks):
            raise InputError("There is nothing to evaluate on.", hint="Give a dataset with --dataset.")
        examples = Path(path).expanduser() if path is not None else None
        if examples is not None:
            check_dataset(examples)
        folder = Path(model).expanduser()
        if not folder.is_dir():
            version = cls._of_version(config, registry, model, examples, whole=test_set is not None)
            return replace(version, custom=custom, home=registry.home)
        adapter = folder if (folder / "adapter_config.json").is_file() else None
        reference = config.base_model or base_reference(folder) if adapter else model
        base = usable_base(reference, registry)
        return cls(
            config, folder.resolve().name, base.folder, adapter, examples, test_set is not None, custom, registry.home
        )

    @classmethod
    def _of_version(
        cls, config: Config, registry: RegistryApi, model: str, examples: Path | None, *, whole: bool
    ) -> Self:
        record = registry.resolve(model)
        pulled = registry.pull(record.ref)
        if record.registered.kind is not ModelKind.ADAPTER:
            return cls(config, record.ref, pulled, None, examples, whole)
        base = usable_base(config.base_model or record.registered.base_model, registry)
        if base.digest != record.registered.base_digest:
            raise InputError(
                f"{base.reference} is not the base {record.ref} was trained on: their digests differ.",
                hint="Set base_model to the folder it was trained on.",
            )
        return cls(config, record.ref, base.folder, pulled, examples, whole)

    def run(self, *, on_progress: Callable[[str, float], None] | None = None) -> EvaluationResult:
        """Measure. Needs a connected Ray.

        Args:
            on_progress: called with a stage and the fraction of it that is done.

        Raises:
            InputError: there are no held-out examples, or none that can be measured.
        """
        return evaluate(
            base_model=self.base,
            adapter=self.adapter,
            rows=self._rows(self.examples) if self.examples is not None else [],
            metrics=self.config.evaluation.metrics,
            max_new_tokens=self.config.evaluation.max_new_tokens,
            model_id=self.model_id,
            custom=self.custom,
            benchmarks=self._benchmarks(),
            store=ResultStore(self.home) if self.home is not None else None,
            on_progress=on_progress,
        )

    def _benchmarks(self) -> BenchmarkPlan | None:
        asked = self.config.evaluation
        if not asked.benchmarks:
            return None
        data = Path(asked.benchmark_data).expanduser().absolute() if asked.benchmark_data is not None else None
        return BenchmarkPlan(
            asked.benchmarks, data, asked.num_fewshot, asked.benchmark_chat_template, asked.max_examples
        )

    def _rows(self, examples: Path) -> list[dict[str, Any]]:
        # A test set is measured whole: nothing of it is held out.
        ratio = None if self.whole else self.config.dataset.validation.split_ratio
        splits = open_dataset(examples, split_ratio=ratio, seed=self.config.seed)
        asked = splits.train if self.whole else splits.validation
        if asked is None:
            raise InputError(
                f"{examples} has no held-out examples.",
                hint="Set dataset.validation.split_ratio to what training held out.",
            )
        # Sorted here: held-out examples are few, and Ray's sort takes longer than measuring them.
        return sorted(asked.take_all(), key=lambda row: str(row["id"]))[: self.config.evaluation.max_examples]

    def check_regressions(self, result: EvaluationResult) -> None:
        """Refuse a result with wrong answers in a set that must pass.

        Raises:
            PolicyError: there are some; it names the sets and the first answers.
        """
        wrong = self.regressions(result)
        if wrong:
            counts = Counter(one.benchmark for one in wrong)
            raise PolicyError(
                "Answers of sets that must pass are wrong: "
                + ", ".join(f"{number} of {name}" for name, number in counts.items())
                + ".",
                rules=tuple(counts),
                hint=f"For example {wrong[0].id!r}: {wrong[0].answer[:80]!r}.",
            )

    def regressions(self, result: EvaluationResult) -> list[Answered]:
        """Return the wrong answers of sets that must pass."""
        return [one for asked in self.custom for one in failing(asked, result.answered)]


def write_result(result: EvaluationResult, path: Path) -> None:
    """Write a result as JSON, whole or not at all; `register --performance-metrics` reads it.

    Raises:
        InputError: the file can't be written.
    """
    write_json(result.to_dict(), path)
