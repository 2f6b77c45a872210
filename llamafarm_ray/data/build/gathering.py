"""Gather the examples of a build: from documents, by an engine, or from rows that exist."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build.existing_rows import SourceRows, read_source_rows
from llamafarm_ray.data.build.finished import FinishedParts
from llamafarm_ray.data.build.harvest import Harvest
from llamafarm_ray.data.build.stages import document_stage, pair_stage
from llamafarm_ray.data.generation import Choice, EnginePlan, choose_generator, plan_writer
from llamafarm_ray.data.ray_data import largest_node, require_cluster
from llamafarm_ray.data.report import Tell
from llamafarm_ray.data.row_kinds import kind_of_build, schema_of_build
from llamafarm_ray.data.rows import ROW_SCHEMA
from llamafarm_ray.data.sources import Sources
from llamafarm_ray.data.sources.found import source_name
from llamafarm_ray.data.split import Split, SplitRow, choose_split
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.data.training_rows import KindName
from llamafarm_ray.types import DeviceUse

__all__ = ["SPLIT_COLUMNS", "Gathered", "gather_documents", "gather_rows", "plan_engine"]

SPLIT_COLUMNS = ("id", "fact", "document", "passage")
"""Columns that the split needs."""


@dataclass
class Gathered:
    """Examples of a build, before they are filtered as a whole.

    Args:
        sources: the documents or files that they come from.
        kind: of the rows to write.
        schema: columns of the kind's own layout.
        choice: the engine that made the examples; None for texts and for rows that were there.
        seconds: wall-clock time by stage.
        rows: the rows that were there; None for documents.
    """

    harvest: Harvest
    sources: Sources
    kind: KindName
    schema: pa.Schema = ROW_SCHEMA
    choice: Choice | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    rows: SourceRows | None = None

    def split_row(self, row: Mapping[str, Any]) -> SplitRow:
        """Return an example as the split needs it, without its texts.

        Args:
            row: with ``SPLIT_COLUMNS``.
        """
        document = sys.intern(row["document"])
        if self.rows is not None:  # a row that names no passage came from no document
            return SplitRow(row["id"], "", document if row["passage"] else "")
        return SplitRow(row["id"], sys.intern(row["fact"]), document, text_digest([document, row["passage"]])[:16])

    def split(self, rows: Iterable[SplitRow], config: DatasetConfig, seed: int) -> Split:
        """Choose the validation examples.

        Args:
            config: share, and what to hold out.
            seed: another seed, another choice.
        """
        validation = config.validation
        if self.rows is not None:
            named = ((row.id, row.document) for row in rows)
            return self.rows.split(named, ratio=validation.built_split_ratio, seed=seed)
        return choose_split(rows, ratio=validation.built_split_ratio, seed=seed, hold_out=validation.hold_out)


def plan_engine(config: DatasetConfig, *, base_model: str | None, cache: str) -> tuple[Choice, EnginePlan | None]:
    """Return the engine that makes examples of documents, and its plan; None for rules.

    Raises:
        InputError: the engine lacks a setting, or can't make what is asked for.
        ClusterError: a model may write, and Ray is not running.
    """
    qa = config.preprocessing.qa_generation
    choice = choose_generator(qa, base_model=base_model, environment=os.environ, has_gpu=True)
    if choice.generator == "rules":  # whatever the machines have
        return choice, None
    require_cluster()
    machine = largest_node()
    choice = choose_generator(qa, base_model=base_model, environment=os.environ, has_gpu=machine.num_gpus > 0)
    return choice, plan_writer(choice, qa, cache=cache, environment=os.environ, machine=machine)


def gather_rows(source: str | Path | Sequence[str], config: DatasetConfig) -> Gathered:
    """Read the rows of a source.

    Raises:
        InputError: see `read_source_rows`.
    """
    start = time.monotonic()
    found = read_source_rows(source, config)
    sources = Sources(name=source_name(source))
    return Gathered(found.harvest, sources, found.kind, found.schema, seconds={"rows": _since(start)}, rows=found)


def gather_documents(
    sources: Sources,
    config: DatasetConfig,
    parts: FinishedParts,
    *,
    engine: tuple[Choice, EnginePlan | None] | None,
    num_partitions: int | None,
    tell: Tell,
    on_use: Callable[[DeviceUse], None],
) -> Gathered:
    """Read documents, on the cluster unless they are few, and make their examples.

    Args:
        sources: the documents.
        parts: finished parts of an earlier attempt.
        engine: see `plan_engine`; None for texts.
        num_partitions: see `build_dataset`.
        tell: called as parts of a stage are done.
        on_use: see `build_dataset`.

    Raises:
        InputError: no document can be read, or none gave an example.
    """
    choice, plan = engine or (None, None)
    seconds, start = {}, time.monotonic()
    harvest = document_stage(
        sources,
        config,
        parts,
        by_rules=plan is None,
        num_partitions=num_partitions,
        tell=tell,
        on_use=on_use,
    )
    if not harvest.digests:
        parts.clear()
        harvest.require_documents(sources.name)
    seconds["documents"] = _since(start)
    if plan is not None:
        pair_stage(harvest, config, plan, parts, tell=tell, on_use=on_use)
        seconds["pairs"] = round(_since(start) - seconds["documents"], 3)
    if not harvest.has_examples:
        parts.clear()
        harvest.require_examples(sources.name)
    kind = kind_of_build(config)
    return Gathered(harvest, sources, kind, schema_of_build(config), choice, seconds)


def _since(start: float) -> float:
    return round(time.monotonic() - start, 3)
