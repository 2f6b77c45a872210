"""Run the documents through their steps on the cluster, and take in what comes back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray
import ray.data

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.documents import document_steps, files_table, process_documents
from llamafarm_ray.data.generation import NO_RULES, GenerateByRules
from llamafarm_ray.data.rows import EXAMPLE_SCHEMA
from llamafarm_ray.data.sources import SkippedDocument, Sources
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.errors import InputError

__all__ = ["Harvest", "harvest_documents"]

_FILES_PER_TASK = 8
_CPUS_PER_TASK = 0.5  # so that a machine of two cores has room for whoever runs the build
_ROWS_PER_BLOCK = 20_000
_MAX_REASONS_SHOWN = 3


@dataclass
class Harvest:
    """What came back.

    Args:
        blocks: references to tables of ``EXAMPLE_SCHEMA`` in Ray's object store.
        ledger: the counts of the steps so far.
        digests: digest by path of each document that was read.
        skipped: the documents that were not, in the order of their paths.
        ignored: number of files in archives by extension that no reader takes.
        notes: remarks by path of the readers of documents that were read.
    """

    blocks: list[ray.ObjectRef[Any]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    digests: dict[str, str] = field(default_factory=dict)
    skipped: list[SkippedDocument] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    notes: dict[str, list[str]] = field(default_factory=dict)
    _pending: list[pa.Table] = field(default_factory=list)

    def take(self, batch: pa.Table) -> None:
        """Take in a batch of ``RESULT_SCHEMA``."""
        for row in batch.select(["path", "digest", "error", "ignored", "notes", "counts"]).to_pylist():
            if row["ignored"]:
                self.ignored[row["ignored"]] += 1
            elif row["error"]:
                self.skipped.append(SkippedDocument(row["path"], row["error"]))
            else:
                self.digests[row["path"]] = row["digest"]
                if row["notes"]:
                    self.notes[row["path"]] = row["notes"]
                self.ledger.merge(json.loads(row["counts"]))
        examples = batch["examples"].combine_chunks().flatten()
        if len(examples):
            self._pending.append(pa.table(examples.flatten(), schema=EXAMPLE_SCHEMA))
            if sum(table.num_rows for table in self._pending) >= _ROWS_PER_BLOCK:
                self.flush()

    def flush(self) -> None:
        """Hand what is pending to Ray: in few blocks, because each one costs a task when they are sorted."""
        if self._pending:
            self.blocks.append(ray.put(pa.concat_tables(self._pending)))
            self._pending = []

    def require_no_skipped(self) -> None:
        """Refuse to go on without a document of the source, as ``dataset.source.strict`` asks.

        Raises:
            InputError: a document can't be used; the message says why.
        """
        if self.skipped:
            first = min(self.skipped, key=lambda skipped: skipped.path)
            raise InputError(
                f"{first.path} can't be used: {first.reason}",
                hint="Repair or remove it, or set dataset.source.strict to false to skip such files.",
            )

    def require_examples(self, source: str) -> None:
        """Refuse to go on with nothing.

        Raises:
            InputError: no document could be read, or none gave an example; the message says why.
        """
        if not self.digests:
            shown = "; ".join(f"{skipped.path}: {skipped.reason}" for skipped in self.skipped[:_MAX_REASONS_SHOWN])
            more = len(self.skipped) - _MAX_REASONS_SHOWN
            raise InputError(
                f"None of the {len(self.skipped)} documents found in {source!r} can be used, all were skipped. "
                f"{shown}{f'; and {more} more' if more > 0 else ''}"
            )
        if not self.blocks:
            reasons: Counter[str] = Counter()
            for counts in self.ledger.steps.values():
                reasons.update(counts.dropped)
            languages = [reason.removeprefix(NO_RULES).strip() for reason in reasons if reason.startswith(NO_RULES)]
            if languages and not self.ledger.counts(GenerateByRules.name).rows_out:
                raise InputError(
                    f"The {len(self.digests)} documents read in {source!r} gave no example: they are in "
                    f"{' and '.join(sorted(languages))}, and questions are made by rules for English only.",
                    hint="Let a model write them: set dataset.preprocessing.qa_generation.model.",
                )
            told = ", ".join(f"{count} times {reason!r}" for reason, count in reasons.most_common(_MAX_REASONS_SHOWN))
            raise InputError(
                f"The {len(self.digests)} documents read in {source!r} gave no example (dropped: {told}).",
                hint="The rules find questions in English sentences; look at quality_control.filters as well.",
            )


def harvest_documents(
    sources: Sources, config: DatasetConfig, *, num_partitions: int | None, tell: Callable[[float], None]
) -> Harvest:
    """Read, parse, clean, split, generate and check the documents, in parallel, and gather the results as they come.

    Args:
        sources: the documents.
        config: what the steps need to know.
        num_partitions: into how many tasks the documents are spread; by default a few documents a task.
        tell: called with the fraction of the documents that is done.
    """
    harvest = Harvest(skipped=list(sources.skipped))
    for step in document_steps(config):
        harvest.ledger.counts(step.name)  # in the order of the pipeline, whichever document comes back first
    if config.source.strict:
        harvest.require_no_skipped()
    total = len(sources.files)
    if not total:
        return harvest
    size = -(-total // num_partitions) if num_partitions else _FILES_PER_TASK
    tables = [files_table(sources.files[start : start + size]) for start in range(0, total, size)]
    results = ray.data.from_arrow(tables).map_batches(
        process_documents,
        fn_kwargs={"config": config},
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=_CPUS_PER_TASK,
    )
    num_done = 0
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        harvest.take(batch)
        num_done += batch.num_rows
        tell(min(1.0, num_done / total))
        if config.source.strict:
            harvest.require_no_skipped()
    harvest.flush()
    harvest.skipped.sort(key=lambda document: document.path)
    return harvest
