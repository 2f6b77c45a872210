"""The two stages of a build: documents in tasks, and passages through a model's writer in one actor of Ray.

Documents that make one small task are worked on in this process; more of them by Ray Data.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build.documents import RESULT_SCHEMA, examples_of, files_table, process_documents, step_names
from llamafarm_ray.data.build.finished import FinishedParts, PartWriter
from llamafarm_ray.data.build.harvest import Harvest
from llamafarm_ray.data.build.tasks import file_stat, fits_one_process, has_remote_file, tasks_of
from llamafarm_ray.data.generation import EnginePlan, Written
from llamafarm_ray.data.generation.stage import batches_of, read_written, write_pairs, written_table
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.ray_data import num_workers
from llamafarm_ray.data.report import Stage, Tell
from llamafarm_ray.data.sources import SourceFile, Sources
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.types import DeviceUse

__all__ = ["document_stage", "pair_stage"]

_CPUS_OF_TASK = 1
_SECONDS = "seconds"


def document_stage(
    sources: Sources,
    config: DatasetConfig,
    parts: FinishedParts,
    *,
    by_rules: bool,
    num_partitions: int | None,
    tell: Tell,
    on_use: Callable[[DeviceUse], None],
) -> Harvest:
    """Read, parse, clean and split the documents in parallel, and gather the results as they come.

    Args:
        parts: results of tasks that finished in an earlier attempt; those of this one are added.
        by_rules: make and check the examples in the same task; else the passages come back.
        num_partitions: number of tasks that the documents are spread over; by default by their number and size.
        tell: called as files are done.
        on_use: called with the use of devices by each task.
    """
    in_one_process = fits_one_process(sources.files, num_partitions)
    harvest = Harvest(skipped=list(sources.skipped), local=in_one_process)
    for step in step_names(config, by_rules=by_rules):
        harvest.ledger.counts(step)  # in the order of the pipeline, whichever document comes back first
    if config.source.strict:
        harvest.require_no_skipped()
    settings = config.model_dump_json(exclude={"preprocessing": {"qa_generation": {"endpoint", "vllm"}}})
    keys: list[tuple[object, ...]] = []
    missing: list[Sequence[SourceFile]] = []
    num_done = 0
    for task in tasks_of(sources.files, num_partitions):
        key = ("documents", by_rules, settings, [file_stat(file) for file in task])
        found = None if has_remote_file(task) else parts.stream(RESULT_SCHEMA, *key)
        if found is None:
            keys.append(key)
            missing.append(task)
        else:
            for table in found:
                harvest.take(table)
            num_done += len(task)
    tell(Stage("documents", "documents", num_done, len(sources.files)))
    if config.source.strict:
        harvest.require_no_skipped()
    process = _processed_here if in_one_process else _processed_by_ray
    results = _by_task(process(missing, config, by_rules=by_rules), missing, on_use)
    for index, result, is_complete in _saved(results, missing, keys, parts):
        harvest.take(result)
        if is_complete:
            if config.source.strict:
                harvest.require_no_skipped()
            num_done += len(missing[index])
            tell(Stage("documents", "documents", num_done, len(sources.files)))
    harvest.skipped.sort(key=lambda document: document.path)
    return harvest


def _saved(
    results: Iterator[tuple[int, pa.Table, bool]],
    tasks: Sequence[Sequence[SourceFile]],
    keys: Sequence[tuple[object, ...]],
    parts: FinishedParts,
) -> Iterator[tuple[int, pa.Table, bool]]:
    """Yield the results of tasks, written to their parts; the part of a task exists once the task is complete."""
    with contextlib.ExitStack() as unfinished:
        begun: dict[int, PartWriter] = {}
        for index, result, is_complete in results:
            if not has_remote_file(tasks[index]):
                if index not in begun:
                    begun[index] = unfinished.enter_context(parts.open(RESULT_SCHEMA, *keys[index]))
                begun[index].add(result)
                if is_complete:
                    begun.pop(index).finish()
            yield index, result, is_complete


def _processed_here(
    tasks: Sequence[Sequence[SourceFile]], config: DatasetConfig, *, by_rules: bool
) -> Iterator[pa.Table]:
    for task in tasks:
        yield from _timed(files_table(task), config=config, by_rules=by_rules)


def _processed_by_ray(
    tasks: Sequence[Sequence[SourceFile]], config: DatasetConfig, *, by_rules: bool
) -> Iterator[pa.Table]:
    if not tasks:
        return
    import ray.data  # a small build does without

    results = ray.data.from_blocks([files_table(task) for task in tasks]).map_batches(
        _timed,
        fn_kwargs={"config": config, "by_rules": by_rules},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=_CPUS_OF_TASK,
        concurrency=num_workers(len(tasks)),
    )
    yield from results.iter_batches(batch_size=None, batch_format="pyarrow")


def _by_task(
    results: Iterable[pa.Table], tasks: Sequence[Sequence[SourceFile]], on_use: Callable[[DeviceUse], None]
) -> Iterator[tuple[int, pa.Table, bool]]:
    """Yield results as they come: the index of their task, a table, and whether the task is complete with it."""
    task_of = {file.path: index for index, task in enumerate(tasks) for file in task}
    left = [len(task) for task in tasks]
    for timed in results:
        on_use(DeviceUse(_CPUS_OF_TASK * (pc.sum(timed.column(_SECONDS)).as_py() or 0.0)))
        batch = timed.select(RESULT_SCHEMA.names)
        indices = [task_of[path] for path in batch.column("file").to_pylist()]
        for index in sorted(set(indices)):  # a block holds one task as a rule, and Ray cuts large ones
            table = batch.filter(pa.array([found == index for found in indices]))
            left[index] -= pc.sum(table["is_last"]).as_py()
            yield index, table.cast(RESULT_SCHEMA), left[index] == 0


def _timed(files: pa.Table, *, config: DatasetConfig, by_rules: bool) -> Iterator[pa.Table]:
    """Process documents; the first row of each table has the seconds that it took."""
    start = time.perf_counter()
    for results in process_documents(files, config=config, by_rules=by_rules):
        now = time.perf_counter()
        seconds = [now - start] + [0.0] * (results.num_rows - 1)
        yield results.append_column(_SECONDS, pa.array(seconds, pa.float64()))
        start = now


def pair_stage(
    harvest: Harvest,
    config: DatasetConfig,
    plan: EnginePlan,
    parts: FinishedParts,
    *,
    tell: Tell,
    on_use: Callable[[DeviceUse], None],
) -> None:
    """Let a model write pairs for the passages, in the order of documents and passages, and check them.

    Args:
        harvest: its passages are used up, examples and counts are added.
        parts: batches that were written in an earlier attempt; those of this one are added.
        tell: called as passages are done.
        on_use: called with the use of devices by the writer.
    """
    passages = [Passage.from_json(text) for path in sorted(harvest.passages) for text in harvest.passages.pop(path)]
    document: dict[Passage, Written] = {}
    batches = batches_of(passages, plan.passages_per_batch)
    found = _found(plan, batches, parts)
    num_done = sum(len(batches[index]) for index in found)
    tell(Stage("pairs", "passages", num_done, len(passages)))
    for batch, results, is_new in _written(plan, batches, found, parts, on_use):
        for passage, written in zip(batch, results, strict=True):
            document[passage] = written
            if len(document) == passage.num_passages:
                harvest.take_rows(examples_of(document, config, harvest.ledger))
                document = {}
        num_done += len(batch) if is_new else 0
        tell(Stage("pairs", "passages", num_done, len(passages)))


def _found(plan: EnginePlan, batches: Sequence[Sequence[Passage]], parts: FinishedParts) -> dict[int, pa.Table]:
    """Return the pairs of the batches that an earlier attempt wrote, by index."""
    return {
        index: table for index, batch in enumerate(batches) if (table := parts.load(*_key(plan, batch))) is not None
    }


def _key(plan: EnginePlan, batch: Sequence[Passage]) -> tuple[object, ...]:
    return "pairs", plan.name, plan.digest, text_digest(passage.to_json() for passage in batch)


def _written(
    plan: EnginePlan,
    batches: Sequence[Sequence[Passage]],
    found: dict[int, pa.Table],
    parts: FinishedParts,
    on_use: Callable[[DeviceUse], None],
) -> Iterator[tuple[Sequence[Passage], Sequence[Written], bool]]:
    """Yield each batch with its pairs, in order, and whether they are new; ``found`` is used up."""
    new = write_pairs(plan, [batch for index, batch in enumerate(batches) if index not in found], on_use)
    for index, batch in enumerate(batches):
        if index in found:
            yield batch, read_written(found.pop(index)), False
        else:
            written = next(new)
            parts.save(written_table(written), *_key(plan, batch))
            yield batch, written, True
