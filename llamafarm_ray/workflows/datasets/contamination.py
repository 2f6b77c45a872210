"""Evaluation sets without the questions that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from llamafarm_ray.data.quality.decontamination import Overlap, find_overlaps, questions_of
from llamafarm_ray.data.records import read_file
from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.benchmarks.tasks import DATA_FILES
from llamafarm_ray.evaluation.custom.sets import CustomSet
from llamafarm_ray.workflows.versions.training_data import TrainingData

__all__ = ["Decontamination"]

BENCHMARK_DATA = "benchmark_data"
"""Name of benchmarks' data among what was compared."""
_ASKED_SPLITS = {"test", "validation"}
_MOST_SHOWN = 20
_Question = TypeVar("_Question")


@dataclass
class Decontamination:
    """Questions against the training data of the models that are asked.

    Args:
        leaves_out: True to leave out questions that the training data contains; they are shown in any case.
        found: findings, by set.
    """

    trained: Sequence[TrainingData]
    leaves_out: bool
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def clean(self, name: str, questions: Sequence[_Question], texts: Sequence[str]) -> list[_Question]:
        """Return the questions that are to be asked, and note those that the training data hold.

        Raises:
            InputError: none is left.
        """
        overlaps = self._note(name, texts, leaves_out=self.leaves_out)
        kept = [one for at, one in enumerate(questions) if at not in overlaps or not self.leaves_out]
        if not kept:
            raise InputError(
                f"All {len(questions)} questions of {name} are in the training data.",
                hint="Write others, or set evaluation.decontaminate to false to ask these.",
            )
        return kept

    def clean_set(self, asked: CustomSet) -> CustomSet:
        """Return a custom evaluation with the questions that are to be asked; a set that must pass keeps all.

        Raises:
            InputError: none is left.
        """
        texts = [one.prompt for one in asked.questions]
        if asked.must_pass:
            self._note(asked.name, texts, leaves_out=False)
            return asked
        return replace(asked, questions=tuple(self.clean(asked.name, asked.questions, texts)))

    def note_benchmarks(self, folder: Path) -> None:
        """Note the questions of benchmarks' test data that the training data hold; all are asked, as elsewhere.

        Raises:
            InputError: a file can't be read.
        """
        files = sorted(path for path in folder.rglob("*") if path.suffix in DATA_FILES and _is_asked(path))
        for place in sorted({path.parent for path in files}):
            rows = (record for path in files if path.parent == place for _, record in read_file(path))
            texts = [text for row in rows for text in questions_of(row)]
            if texts:
                self._note(f"{BENCHMARK_DATA}/{place.relative_to(folder).as_posix()}", texts, leaves_out=False)

    @property
    def report(self) -> dict[str, object] | None:
        """Return the findings by set, and the reasons against a comparison with training data; None without any set."""
        if not self.found:
            return None
        unknown = [one.reason for one in self.trained if not one.rows]
        return {**self.found, **({"not_compared": unknown} if unknown else {})}

    def _note(self, name: str, texts: Sequence[str], *, leaves_out: bool) -> dict[int, Overlap]:
        overlaps: dict[int, tuple[Overlap, str]] = {}
        for one in self.trained:
            for at, overlap in find_overlaps(texts, one.rows).items():
                overlaps.setdefault(at, (overlap, one.name))
        examples = [
            {"question": texts[at], "training_data": data, "example": _asked(overlap), "shared": overlap.shared}
            for at, (overlap, data) in sorted(overlaps.items())
        ]
        if any(one.rows for one in self.trained):
            counts = {"num_questions": len(texts), "num_overlapping": len(overlaps), "left_out": leaves_out}
            self.found[name] = {**counts, "overlaps": examples[:_MOST_SHOWN]}
        else:
            self.found[name] = {"num_questions": len(texts)}
        return {at: overlap for at, (overlap, _) in overlaps.items()}


def _is_asked(path: Path) -> bool:
    """Return True for a split that benchmarks ask, and not take examples from."""
    return path.stem.partition("-")[0] in _ASKED_SPLITS


def _asked(overlap: Overlap) -> str:
    """Return the last turn of the user in the example that repeats a question."""
    turns = [turn["content"] for turn in overlap.row["messages"] if turn["role"] == "user"]
    return str(turns[-1] if turns else "")
