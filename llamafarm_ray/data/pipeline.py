"""Build a dataset: documents in, train and validation splits out, streaming through Ray Data."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data

from llamafarm_ray.config import DatasetConfig, QualityControl
from llamafarm_ray.data.assembly import Assembly
from llamafarm_ray.data.conversations import harvest_conversations
from llamafarm_ray.data.finished import FinishedParts
from llamafarm_ray.data.generation import Generator, choose_generator, plan_writer
from llamafarm_ray.data.harvest import Harvest
from llamafarm_ray.data.quality.decontamination import EvaluationTexts, read_evaluation_texts
from llamafarm_ray.data.quality.metrics import measure, require_goals
from llamafarm_ray.data.quality.whole_set import FILTER_COLUMNS, whole_set_filters
from llamafarm_ray.data.ray_data import largest_node, num_workers, quiet_ray_data, require_cluster, rows_of
from llamafarm_ray.data.report import BuildReport, Stage, Tell, counting, report_page
from llamafarm_ray.data.rows import ROW_SCHEMA
from llamafarm_ray.data.sources import Sources, discover
from llamafarm_ray.data.split import SplitRow, choose_split
from llamafarm_ray.data.stages import document_stage, pair_stage
from llamafarm_ray.data.steps import Deduplicate, Ledger
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.data.with_passages import rows_with_passages
from llamafarm_ray.data.writing import target_for
from llamafarm_ray.errors import UnsupportedError

__all__ = ["build_dataset"]

_ROWS_A_TASK = 4096


def build_dataset(
    source: str | Path | Sequence[str],
    output: Path,
    config: DatasetConfig,
    *,
    name: str,
    seed: int,
    progress: Tell | None = None,
    base_model: str | None = None,
    cache: str | None = None,
    overwrite: bool = False,
    num_partitions: int | None = None,
) -> BuildReport:
    """Make a dataset from the documents at ``source``.

    The same input, config and seed give the same digest and the same files, for any number of workers. Nothing
    appears at ``output`` before everything is written. Documents that can't be read are skipped and reported. A build
    that was killed goes on where it was: finished parts lie in the hidden folder ``.NAME.unfinished`` beside
    ``output`` until a build with this output is complete.

    Args:
        source: folder of documents, one document, a pattern or a URI, or several of them; every node of the cluster
            must see it under this path.
        output: the folder to make, or a file ending in ``.json`` or ``.jsonl``. If the same dataset is there already
            it is left as it is.
        config: the ``dataset`` section of a configuration.
        name: the dataset's name, recorded in it.
        seed: decides which examples are held out.
        progress: called in this thread as parts of a stage ("documents", "pairs", "examples", "write") are done.
        base_model: folder of the base model, which may write the pairs.
        cache: folder or URI for the answers of an endpoint, so that none is asked for twice; by default a hidden
            folder beside ``output``, which stays.
        overwrite: replace another dataset at ``output``.
        num_partitions: into how many tasks the documents are spread; by default a few documents a task.

    Raises:
        InputError: the source is missing, has no readable document, or gave no example; the model that shall write
            the pairs can't be asked; or the dataset misses a goal of ``quality_control``.
        ConflictError: ``output`` exists with other content.
        UnsupportedError: ``qa_generation`` is off. Other settings without an engine are refused by
            :func:`llamafarm_ray.config.refuse_unavailable`, which sees all of a configuration.
        ClusterError: Ray is not running, or gave up.
        StorageError: ``output`` can't be written.
    """
    has_logs = config.source.type == "conversation_logs"
    if not has_logs:
        _require_generation(config)
    require_cluster()
    qa = config.preprocessing.qa_generation
    choice = None if has_logs else choose_generator(qa, base_model=base_model, environment=os.environ)
    plan = (
        None
        if choice is None
        else plan_writer(
            choice,
            qa,
            cache=cache or str(output.with_name(f".{output.name}.answers").absolute()),
            environment=os.environ,
            machine=largest_node(),
        )
    )
    tell = progress or (lambda _stage: None)
    target = target_for(output, config.preprocessing.format, overwrite=overwrite)
    target.check()
    evaluation = read_evaluation_texts(config.quality_control.decontaminate)
    sources = Sources() if has_logs else discover(source, exclude=target.output)
    parts = FinishedParts(target.output)
    seconds, start = {}, time.monotonic()
    with quiet_ray_data():
        harvest = (
            harvest_conversations(source, config, sources, tell)
            if has_logs
            else document_stage(sources, config, parts, by_rules=plan is None, num_partitions=num_partitions, tell=tell)
        )
        if not harvest.digests:
            parts.clear()
            harvest.require_documents(sources.name)
        seconds["documents"] = round(time.monotonic() - start, 3)
        if plan is not None:
            pair_stage(harvest, config, plan, parts, tell=tell)
            seconds["pairs"] = round(time.monotonic() - start - seconds["documents"], 3)
        if not harvest.has_examples:
            parts.clear()
            harvest.require_examples(sources.name)
        tell(Stage("examples", "examples", 0, None))
        examples = _Examples(harvest, config.quality_control, evaluation)
        columns = ["id", "fact", "document", "passage"]
        kept = counting(
            examples.rows(columns, harvest.ledger), lambda done: tell(Stage("examples", "examples", done, None))
        )
        facts = [_split_row(row) for row in kept]
        harvest.require_left(len(facts))
        metrics = measure(examples.rows(["id", "messages", "passage"], Ledger()), config)
        require_goals(config, metrics)
        split = choose_split(
            facts, ratio=config.validation.built_split_ratio, seed=seed, hold_out=config.validation.hold_out
        )
        with target.open():
            assembly = Assembly(target, split, keep_origin=config.source.include_metadata)
            _write(
                assembly,
                examples,
                with_passages=choice is not None and _asks_with_passages(config, choice.generator),
                tell=lambda done: tell(Stage("write", "rows", done, len(facts))),
            )
            seconds["total"] = round(time.monotonic() - start, 3)
            report = assembly.report(
                name=name, seed=seed, sources=sources, harvest=harvest, choice=choice, seconds=seconds
            )
            metrics = replace(metrics, coverage=report.coverage.share if report.coverage else None)
            require_goals(config, metrics)
            report = replace(report, metrics=metrics)
            target.finish(assembly.description(report, harvest), report.to_dict(), report_page(report))
            created = target.publish()
            parts.clear()
    return replace(report, created=created)


def _write(assembly: Assembly, examples: _Examples, *, with_passages: bool, tell: Callable[[int], None]) -> None:
    """Write all examples, then those of the training split once more with passages if that is asked for."""
    for row in counting(examples.rows([*ROW_SCHEMA.names, "covers"], Ledger()), tell):
        assembly.add(row)
    if with_passages:
        for row in rows_with_passages(examples.by_document(assembly.train_ids)):
            assembly.add(row)
    assembly.flush()


def _split_row(row: Mapping[str, Any]) -> SplitRow:
    document = sys.intern(row["document"])
    return SplitRow(row["id"], row["fact"], document, text_digest([document, row["passage"]])[:16])


def _require_generation(config: DatasetConfig) -> None:
    if not config.preprocessing.qa_generation.enabled:
        raise UnsupportedError(
            "This release can't build a dataset with dataset.preprocessing.qa_generation.enabled=false.",
            hint="Use enabled=true.",
        )


def _asks_with_passages(config: DatasetConfig, generator: Generator) -> bool:
    asked = config.preprocessing.with_passages
    return generator != "rules" if asked == "auto" else asked


class _Examples:
    """The examples of the whole dataset, sorted by what they say, as often as they are asked for.

    Sorted like this duplicates stand side by side, and the order is the same however the documents were spread. Few
    examples are sorted in this process, because Ray would start workers for it.
    """

    _ORDER = ("key", "document", "position")

    def __init__(self, harvest: Harvest, quality: QualityControl, evaluation: EvaluationTexts) -> None:
        self._deduplicate = quality.validation.duplicate_detection
        self._local: pa.Table | None = None
        if harvest.blocks:
            harvest.flush()
            self._sorted = ray.data.from_arrow_refs(harvest.blocks).sort(list(self._ORDER)).materialize()
        else:
            self._local = pa.concat_tables(harvest.rows).sort_by([(name, "ascending") for name in self._ORDER])

        self._filters = whole_set_filters(quality, evaluation, self._tables)

    def rows(self, columns: Sequence[str], ledger: Ledger) -> Iterator[Mapping[str, Any]]:
        """Stream these columns and ``key``, without duplicates and what the filters drop, counting in ``ledger``."""
        needed = list(dict.fromkeys(["key", *columns, *(FILTER_COLUMNS if self._filters else ())]))
        rows: Iterator[Mapping[str, Any]] = (
            rows_of(self._sorted, needed) if self._local is None else _rows_of_table(self._local.select(needed))
        )
        for step in (*((Deduplicate(),) if self._deduplicate else ()), *self._filters):
            ledger.counts(step.name)  # in the order of the steps; the last one is asked for a row first
            rows = step.run(rows, ledger)
        return rows

    def _tables(self, function: Callable[[pa.Table], pa.Table], columns: list[str]) -> Iterator[pa.Table]:
        """Apply ``function`` to tables of all rows, in Ray's tasks where Ray holds them."""
        if self._local is not None:
            return (function(pa.Table.from_batches([batch])) for batch in self._local.select(columns).to_batches(1024))
        chosen = self._sorted.select_columns(columns)
        results = chosen.map_batches(
            function,
            batch_size=_ROWS_A_TASK,
            batch_format="pyarrow",
            num_cpus=1,
            concurrency=num_workers(self._sorted.num_blocks()),
        )
        return iter(results.iter_batches(batch_size=None, batch_format="pyarrow"))

    def by_document(self, ids: Container[str]) -> Iterator[Mapping[str, Any]]:
        """Stream the rows with these ids, each once, those of a document together and in its order."""
        columns, order = [*ROW_SCHEMA.names, "fact"], ["document", "position"]
        if self._local is None:
            rows = rows_of(self._sorted.sort(order), columns)
        else:
            rows = _rows_of_table(self._local.sort_by([(name, "ascending") for name in order]).select(columns))
        seen: set[str] = set()
        for row in rows:
            if row["id"] in ids and row["id"] not in seen:
                seen.add(row["id"])
                yield row


def _rows_of_table(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()
