"""Registered evaluation sets: the files of those that an evaluation names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from llamafarm_ray.config import Config
from llamafarm_ray.errors import InputError, NotFoundError
from llamafarm_ray.evaluation.custom.description import find_file
from llamafarm_ray.evaluation.custom.sets import CustomSet
from llamafarm_ray.evaluation.rag.exam import MODES
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.datasets.registered import find_dataset

__all__ = ["DATA", "DESCRIPTION", "QUESTIONS", "SCORER", "StoredSet", "StoredSets", "open_set"]

QUESTIONS, DESCRIPTION, SCORER = "questions.jsonl", "evaluation.json", "scorer.py"
"""Files of a stored set: its questions, the description of a custom evaluation, and its scorer."""
DATA = "data"
"""Folder of a stored set with a benchmark's data."""


@dataclass(frozen=True, slots=True)
class StoredSet:
    """A registered evaluation set.

    Args:
        reference: ``name@sha256:...``.
    """

    reference: str
    folder: Path

    @property
    def questions(self) -> Path:
        """The file of its questions.

        Raises:
            InputError: it is a benchmark's data.
        """
        if not (self.folder / QUESTIONS).is_file():
            raise InputError(f"{self.reference} is a benchmark's data and has no questions.", hint="Give it to --data.")
        return self.folder / QUESTIONS

    @property
    def custom(self) -> Path:
        """The file of a custom evaluation: its description, else its questions.

        Raises:
            InputError: it is a benchmark's data.
        """
        described = self.folder / DESCRIPTION
        return described if described.is_file() else self.questions

    @property
    def data(self) -> Path:
        """The folder of a benchmark's data.

        Raises:
            InputError: it is a set of questions.
        """
        if not (self.folder / DATA).is_dir():
            raise InputError(
                f"{self.reference} holds questions, and no benchmark's data.", hint="Give it to --questions."
            )
        return self.folder / DATA


def open_set(registry: RegistryApi, reference: str) -> StoredSet:
    """Return a registered evaluation set with its files on this machine.

    Args:
        reference: ``name`` for the newest, or ``name@digest``.

    Raises:
        NotFoundError: there is no such dataset or version.
        InputError: it is a dataset for training.
        IntegrityError: its files are damaged.
    """
    found = find_dataset(registry, reference)
    if found.manifest is None:
        raise InputError(
            f"{reference} is a dataset for training, and no evaluation set.",
            hint="Give it to --dataset, or register questions with `llamafarm datasets register`.",
        )
    return StoredSet(f"{found.name}@{found.digest}", registry.content.pull(Digest(found.manifest)))


@dataclass(frozen=True, slots=True)
class StoredSets:
    """The registered sets of one evaluation.

    Args:
        questions: that of ``evaluation.questions``; None for a file.
        benchmarks: that of ``evaluation.benchmark_data``; None for a folder, or the hub.
        custom: those of ``evaluation.custom_evaluations`` by name; files are left out.
    """

    questions: StoredSet | None = None
    benchmarks: StoredSet | None = None
    custom: Mapping[str, StoredSet] = field(default_factory=dict)

    @classmethod
    def find(cls, config: Config, registry: RegistryApi) -> Self:
        """Find the sets that are named by references. A file or folder of that name comes first.

        Raises:
            NotFoundError: there is neither a file nor a set of a name.
            InputError: a dataset for training is named.
        """
        asked = config.evaluation
        return cls(
            _find(registry, asked.questions),
            _find(registry, asked.benchmark_data),
            {
                name: open_set(registry, name)
                for name in asked.custom_evaluations
                if find_file(name) is None and name.partition("@")[0] in registry.refresh().datasets
            },
        )

    def applied(self, config: Config) -> Config:
        """Return a configuration with the sets' files in place of their references."""
        changes: dict[str, str] = {}
        if self.questions is not None:
            changes["questions"] = str(self.questions.questions)
        if self.benchmarks is not None:
            changes["benchmark_data"] = str(self.benchmarks.data)
        return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=changes)})

    @property
    def custom_files(self) -> dict[str, Path]:
        """The files of custom evaluations by name."""
        return {name: one.custom for name, one in self.custom.items()}

    def note(self, result: EvaluationResult, custom: Mapping[str, CustomSet], benchmarks: set[str]) -> EvaluationResult:
        """Return a result that names the set behind each of its scores.

        Args:
            custom: custom evaluations by the name that the configuration gives them.
            benchmarks: names of lm-eval's tasks in the result.
        """
        named = {custom[name].name: one.reference for name, one in self.custom.items()}
        if self.questions is not None:
            named |= dict.fromkeys(MODES, self.questions.reference)
        if self.benchmarks is not None:
            named |= dict.fromkeys(benchmarks, self.benchmarks.reference)
        return replace(result, benchmarks=_noted(result.benchmarks, named), risk=_noted(result.risk, named))


def _noted(scores: Mapping[str, BenchmarkScores], named: Mapping[str, str]) -> dict[str, BenchmarkScores]:
    return {name: replace(one, dataset=named.get(name, one.dataset)) for name, one in scores.items()}


def _find(registry: RegistryApi, named: str | None) -> StoredSet | None:
    if named is None or Path(named).expanduser().exists():
        return None
    try:
        return open_set(registry, named)
    except NotFoundError as error:
        raise NotFoundError(f"There is no file and no evaluation set {named!r}.", hint=error.hint) from None
