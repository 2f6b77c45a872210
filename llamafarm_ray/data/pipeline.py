"""Build a dataset: documents in, train and validation splits out, streaming through Ray Data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.data

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.assembly import Assembly
from llamafarm_ray.data.harvest import Harvest, harvest_documents
from llamafarm_ray.data.ray_data import quiet_ray_data, require_cluster, rows_of
from llamafarm_ray.data.report import BuildReport
from llamafarm_ray.data.rows import ROW_SCHEMA
from llamafarm_ray.data.sources import discover
from llamafarm_ray.data.split import choose_split
from llamafarm_ray.data.steps import Deduplicate, Ledger
from llamafarm_ray.data.writing import target_for
from llamafarm_ray.errors import UnsupportedError

__all__ = ["build_dataset"]

# Where each stage ends, as a fraction of the whole; told to whoever draws a progress bar.
_DOCUMENTS_END, _EXAMPLES_END = 0.8, 0.9
_ROWS_PER_TELL = 1000


def build_dataset(
    source: str | Path | Sequence[str],
    output: Path,
    config: DatasetConfig,
    *,
    name: str,
    seed: int,
    progress: Callable[[str, float], None] | None = None,
    overwrite: bool = False,
    num_partitions: int | None = None,
) -> BuildReport:
    """Make a dataset from the documents at ``source``.

    The same input, config and seed give the same digest and the same files, for any number of workers. Nothing
    appears at ``output`` before everything is written. Documents that can't be read are skipped and reported.

    Args:
        source: folder of documents, one document, a pattern or a URI, or several of them; every node of the cluster
            must see it under this path.
        output: the folder to make, or a file ending in ``.json`` or ``.jsonl``. If the same dataset is there already
            it is left as it is.
        config: the ``dataset`` section of a configuration.
        name: the dataset's name, recorded in it.
        seed: decides which examples are held out.
        progress: called with the stage ("documents", "examples", "write") and the fraction of the whole build that
            is done, 0.0 to 1.0.
        overwrite: replace another dataset at ``output``.
        num_partitions: into how many tasks the documents are spread; by default a few documents a task.

    Raises:
        InputError: the source is missing, has no readable document, or gave no example.
        ConflictError: ``output`` exists with other content.
        UnsupportedError: the questions are to be made by something else than the rules. What else of a configuration
            has no engine yet is refused by :func:`llamafarm_ray.config.refuse_unavailable`, which sees all of it.
        ClusterError: Ray is not running, or gave up.
        StorageError: ``output`` can't be written.
    """
    _require_rules(config)
    require_cluster()
    tell = progress or (lambda _stage, _fraction: None)
    target = target_for(output, config.preprocessing.format, overwrite=overwrite)
    target.check()
    sources = discover(source, exclude=target.output)
    seconds, start = {}, time.monotonic()
    tell("documents", 0.0)
    with quiet_ray_data():
        harvest = harvest_documents(
            sources,
            config,
            num_partitions=num_partitions,
            tell=lambda fraction: tell("documents", fraction * _DOCUMENTS_END),
        )
        harvest.require_examples(sources.name)
        seconds["documents"] = round(time.monotonic() - start, 3)
        tell("examples", _DOCUMENTS_END)
        examples = _Examples(harvest, deduplicate=config.quality_control.validation.duplicate_detection)
        facts = [(row["id"], row["fact"]) for row in examples.rows(["id", "fact"], harvest.ledger)]
        split = choose_split(facts, ratio=config.validation.built_split_ratio, seed=seed)
        with target.open():
            assembly = Assembly(target, split, keep_origin=config.source.include_metadata)
            for index, row in enumerate(examples.rows(ROW_SCHEMA.names, Ledger())):
                assembly.add(row)
                if index % _ROWS_PER_TELL == 0:
                    tell("write", _EXAMPLES_END + (1.0 - _EXAMPLES_END) * index / len(facts))
            assembly.flush()
            seconds["total"] = round(time.monotonic() - start, 3)
            report = assembly.report(name=name, seed=seed, sources=sources, harvest=harvest, seconds=seconds)
            target.finish(assembly.description(report, harvest), report.to_dict())
            created = target.publish()
    tell("write", 1.0)
    return replace(report, created=created)


def _require_rules(config: DatasetConfig) -> None:
    qa = config.preprocessing.qa_generation
    if not qa.enabled or qa.model != "rules":
        key = f"model={qa.model}" if qa.enabled else "enabled=false"
        raise UnsupportedError(
            f"This release can't build a dataset with dataset.preprocessing.qa_generation.{key}.",
            hint="Use enabled=true and model=rules.",
        )


class _Examples:
    """The examples of the whole dataset, sorted by what they say, as often as they are asked for.

    Sorted like this duplicates stand side by side, and the order is the same however the documents were spread.
    """

    def __init__(self, harvest: Harvest, *, deduplicate: bool) -> None:
        examples = ray.data.from_arrow_refs(harvest.blocks)
        self._sorted = examples.sort(["key", "document", "position"]).materialize()
        self._deduplicate = deduplicate

    def rows(self, columns: Sequence[str], ledger: Ledger) -> Iterator[Mapping[str, Any]]:
        """Stream these columns and ``key``, without duplicates, counting in ``ledger``."""
        rows = rows_of(self._sorted, ["key", *columns])
        return Deduplicate().run(rows, ledger) if self._deduplicate else rows
