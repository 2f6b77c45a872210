"""Put the unique examples into their splits, and keep the accounts that the report is made of."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llamafarm_ray import __version__
from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.augmentation.single_turns import single_turns
from llamafarm_ray.data.build.harvest import Harvest
from llamafarm_ray.data.coverage import Coverage
from llamafarm_ray.data.formats import holds_one_answer
from llamafarm_ray.data.generation import Choice
from llamafarm_ray.data.prompts import Prompt
from llamafarm_ray.data.report import BuildReport, DocumentCounts, Generator, Lengths, Sample, StepReport
from llamafarm_ray.data.row_kinds import row_of_kind
from llamafarm_ray.data.rows import DocumentRecord, Provenance, digest_line, digest_of_lines
from llamafarm_ray.data.sources import Sources
from llamafarm_ray.data.split import Split
from llamafarm_ray.data.writing import Target

__all__ = ["Assembly", "description"]

_FORMAT_VERSION = 1
_NUM_SAMPLES = 10
_WRITE_ROWS = 1000


class Assembly:
    """Hands rows to a target by split. Per row it keeps a line of the dataset's digest, some 250 bytes.

    Args:
        split: the rows that are held out for validation.
        kind: of the rows to write.
        config: the prompt of chats, and ``source.include_metadata``: False leaves the columns empty that say where a
            row came from.
    """

    def __init__(self, target: Target, split: Split, *, kind: str, config: DatasetConfig) -> None:
        self._target = target
        self._split = split
        self._kind = kind
        self._prompt = Prompt(config.preprocessing.prompt_template, config.preprocessing.system_prompt)
        self._keep_origin = config.source.include_metadata
        self._one_answer = holds_one_answer(config.preprocessing.format)
        self._singles: set[str] = set()
        self._pending: dict[str, list[dict[str, object]]] = {"train": [], "validation": []}
        self._lines: dict[str, list[bytes]] = {"train": [], "validation": []}
        self._per_document: Counter[str] = Counter()
        self._covered: dict[str, set[int]] = defaultdict(set)
        self._samples: list[Sample] = []
        self._question_chars: list[int] = []
        self._answer_chars: list[int] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Take one row with the columns of ``ROW_SCHEMA``, ``covers`` and, if it has some, ``extra``."""
        split = self.side_of(row["id"])
        self._account(split, row)
        kept = row_of_kind(row, self._kind)
        if self._kind == "chat":
            kept = self._prompt.applied_to(kept)
        if not self._keep_origin:
            kept |= {"document": "", "document_digest": "", "passage": ""}
            kept["provenance"] = Provenance.without_place(row["provenance"])
        self._lines[split].append(digest_line(split, kept))
        self._pending[split].append(kept)
        if len(self._pending[split]) >= _WRITE_ROWS:
            self.flush()

    def add_joined(self, row: Mapping[str, object]) -> None:
        """Take a row that asks several questions; a format with room for one gets a row for each, no row twice."""
        if not self._one_answer:
            self.add(row)
            return
        for single in single_turns(row):
            if single["id"] not in self._singles:
                self._singles.add(single["id"])
                self.add(single)

    def side_of(self, row_id: str) -> str:
        """Return the split of an example, ``train`` or ``validation``."""
        return "validation" if row_id in self._split.validation else "train"

    def require_training_rows(self, harvest: Harvest) -> None:
        """Refuse a dataset without rows to train on.

        Raises:
            InputError: there are none; the message says why.
        """
        harvest.require_left(len(self._lines["train"]))

    def flush(self) -> None:
        """Write the pending rows."""
        for split, rows in self._pending.items():
            if rows:
                self._target.add(split, rows)
                self._pending[split] = []

    def _account(self, split: str, row: Mapping[str, Any]) -> None:
        self._per_document[row["document"]] += 1
        self._covered[row["document"]].update(row["covers"])
        question, answer = (_last(row["messages"], role) for role in ("user", "assistant"))
        self._question_chars.append(len(question))
        self._answer_chars.append(len(answer))
        if len(self._samples) < _NUM_SAMPLES:
            self._samples.append(Sample(split, question, answer, row["document"]))

    def report(
        self,
        *,
        name: str,
        seed: int,
        sources: Sources,
        harvest: Harvest,
        choice: Choice | None,
        seconds: dict[str, float],
    ) -> BuildReport:
        """Return the report of the build, as if the dataset is new."""
        return BuildReport(
            name=name,
            digest=digest_of_lines(itertools.chain.from_iterable(self._lines.values())),
            output=str(self._target.output),
            seed=seed,
            created=True,
            documents=DocumentCounts(
                found=len(harvest.digests) + len(harvest.skipped),
                read=len(harvest.digests),
                skipped=harvest.skipped,
                ignored=dict(sorted((sources.ignored + harvest.ignored).items())),
                notes=dict(sorted(harvest.notes.items())),
            ),
            steps=[StepReport(name=step, **counts.to_dict()) for step, counts in harvest.ledger.steps.items()],
            num_train=len(self._lines["train"]),
            num_validation=len(self._lines["validation"]),
            held_out=self._split.held_out,
            question_chars=Lengths.of(self._question_chars),
            answer_chars=Lengths.of(self._answer_chars),
            samples=self._samples,
            seconds=seconds,
            generator=Generator(choice.generator, choice.model, choice.reason) if choice else None,
            coverage=self._coverage(harvest) if choice else None,
        )

    def _coverage(self, harvest: Harvest) -> Coverage | None:
        if not harvest.num_facts:
            return None
        documents = {path: [len(self._covered[path]), count] for path, count in sorted(harvest.num_facts.items())}
        covered, facts = (sum(counts) for counts in zip(*documents.values(), strict=True))
        return Coverage(num_facts=facts, num_covered=covered, documents=documents)

    def description(self, report: BuildReport, harvest: Harvest, *, passes: int) -> dict[str, object]:
        """Return the content of ``dataset.json``.

        Args:
            passes: passes over the questions that the training rows are written in.
        """
        documents = [
            DocumentRecord(path, digest, self._per_document[path]) for path, digest in sorted(harvest.digests.items())
        ]
        return {**description(report, documents), "passes": passes}


def description(report: BuildReport, documents: Sequence[DocumentRecord]) -> dict[str, object]:
    """Return the content of ``dataset.json`` that every dataset has."""
    return {
        "format_version": _FORMAT_VERSION,
        "name": report.name,
        "digest": report.digest,
        "seed": report.seed,
        "num_train": report.num_train,
        "num_validation": report.num_validation,
        "documents": [asdict(document) for document in documents],
        "created_with": __version__,
    }


def _last(turns: Sequence[Mapping[str, object]], role: str) -> str:
    return next((str(turn["content"]) for turn in reversed(turns) if turn["role"] == role), "")
