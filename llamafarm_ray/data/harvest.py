"""Run the documents through their steps on the cluster, and gather the examples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.documents import examples_of, files_table, process_documents, step_names
from llamafarm_ray.data.generation import WriterPlan, Written
from llamafarm_ray.data.generation.stage import batches_of, write_pairs
from llamafarm_ray.data.rows import EXAMPLE_SCHEMA, Passage
from llamafarm_ray.data.sources import SkippedDocument, Sources
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.errors import InputError

__all__ = ["Harvest", "harvest_documents", "harvest_pairs"]

_FILES_PER_TASK = 8
_CPUS_PER_TASK = 0.5  # so that a machine of two cores has room for whoever runs the build
_ROWS_PER_BLOCK = 20_000
_MAX_REASONS_SHOWN = 3


@dataclass
class Harvest:
    """Examples, passages and failures returned by the workers.

    Args:
        blocks: references to tables of ``EXAMPLE_SCHEMA`` in Ray's object store.
        ledger: the counts of the steps so far.
        digests: digest by path of each document that was read.
        skipped: the documents that were not, in the order of their paths.
        num_facts: number of facts by path.
        passages: passages by path, each as JSON, where a model writes the examples.
    """

    blocks: list[ray.ObjectRef[Any]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    digests: dict[str, str] = field(default_factory=dict)
    skipped: list[SkippedDocument] = field(default_factory=list)
    num_facts: dict[str, int] = field(default_factory=dict)
    passages: dict[str, list[str]] = field(default_factory=dict)
    _pending: list[pa.Table] = field(default_factory=list)

    def take(self, batch: pa.Table) -> None:
        """Take in a batch of ``RESULT_SCHEMA``."""
        for row in batch.drop_columns(["examples"]).to_pylist():
            if row["error"]:
                self.skipped.append(SkippedDocument(row["path"], row["error"]))
                continue
            self.digests[row["path"]] = row["digest"]
            self.num_facts[row["path"]] = row["num_facts"]
            self.ledger.merge(json.loads(row["counts"]))
            if row["passages"]:
                self.passages[row["path"]] = row["passages"]
        examples = batch["examples"].combine_chunks().flatten()
        if len(examples):
            self._add(pa.table(examples.flatten(), schema=EXAMPLE_SCHEMA))

    def take_rows(self, rows: list[dict[str, Any]]) -> None:
        """Take in rows of ``EXAMPLE_SCHEMA``."""
        if rows:
            self._add(pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA))

    def _add(self, examples: pa.Table) -> None:
        self._pending.append(examples)
        if sum(table.num_rows for table in self._pending) >= _ROWS_PER_BLOCK:
            self.flush()

    def flush(self) -> None:
        """Hand what is pending to Ray: in few blocks, because each one costs a task when they are sorted."""
        if self._pending:
            self.blocks.append(ray.put(pa.concat_tables(self._pending)))
            self._pending = []

    def require_examples(self, source: Path) -> None:
        """Refuse to go on with nothing.

        Raises:
            InputError: no document could be read, or none gave an example; the message says why.
        """
        self.require_documents(source)
        if not self.blocks:
            reasons: Counter[str] = Counter()
            for counts in self.ledger.steps.values():
                reasons.update(counts.dropped)
            told = ", ".join(f"{count} times {reason!r}" for reason, count in reasons.most_common(_MAX_REASONS_SHOWN))
            raise InputError(
                f"The {len(self.digests)} documents read in {str(source)!r} gave no example (dropped: {told}).",
                hint="The rules find questions in English sentences; look at quality_control.filters as well.",
            )

    def require_documents(self, source: Path) -> None:
        """Refuse to go on without a document.

        Raises:
            InputError: none could be read; the message says why.
        """
        if not self.digests:
            shown = "; ".join(f"{skipped.path}: {skipped.reason}" for skipped in self.skipped[:_MAX_REASONS_SHOWN])
            more = len(self.skipped) - _MAX_REASONS_SHOWN
            raise InputError(
                f"None of the {len(self.skipped)} documents found in {str(source)!r} can be used, all were skipped. "
                f"{shown}{f'; and {more} more' if more > 0 else ''}"
            )


def harvest_documents(
    sources: Sources,
    config: DatasetConfig,
    *,
    by_rules: bool,
    num_partitions: int | None,
    tell: Callable[[float], None],
) -> Harvest:
    """Read, parse, clean and split the documents in parallel, and gather the results as they come.

    Args:
        sources: the documents.
        config: settings of the steps.
        by_rules: make and check the examples in the same task; else the passages come back.
        num_partitions: number of tasks that the documents are spread over; by default by their number.
        tell: called with the fraction of the documents that is done.
    """
    harvest = Harvest(skipped=list(sources.skipped))
    for step in step_names(by_rules=by_rules):
        harvest.ledger.counts(step)  # in the order of the pipeline, whichever document comes back first
    total = len(sources.files)
    if not total:
        return harvest
    size = -(-total // num_partitions) if num_partitions else _FILES_PER_TASK
    tables = [files_table(sources.files[start : start + size]) for start in range(0, total, size)]
    results = ray.data.from_arrow(tables).map_batches(
        process_documents,
        fn_kwargs={"config": config, "by_rules": by_rules},
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=_CPUS_PER_TASK,
    )
    num_done = 0
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        harvest.take(batch)
        num_done += batch.num_rows
        tell(num_done / total)
    harvest.flush()
    harvest.skipped.sort(key=lambda document: document.path)
    return harvest


def harvest_pairs(harvest: Harvest, config: DatasetConfig, plan: WriterPlan, *, tell: Callable[[float], None]) -> None:
    """Let a model write pairs for the passages, in the order of documents and passages, and check them.

    Args:
        harvest: its passages are used up, examples and counts are added.
        config: settings of the checks.
        plan: the model's writer.
        tell: called with the fraction of the passages that is done.
    """
    passages = [Passage.from_json(text) for path in sorted(harvest.passages) for text in harvest.passages.pop(path)]
    batches = batches_of(passages, plan.passages_per_batch)
    current: dict[Passage, Written] = {}
    num_done = 0
    for index, results in write_pairs(plan, batches):
        for passage, written in zip(batches[index], results, strict=True):
            current[passage] = written
            if len(current) == passage.num_passages:  # the document's last one
                harvest.take_rows(examples_of(current, config, harvest.ledger))
                current = {}
        num_done += len(results)
        tell(num_done / len(passages))
    harvest.flush()
