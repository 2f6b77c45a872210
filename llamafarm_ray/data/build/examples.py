"""Examples of a build, sorted by content, without duplicates and filtered ones."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from llamafarm_ray.config import QualityControl
from llamafarm_ray.data.build.harvest import Harvest
from llamafarm_ray.data.quality.decontamination import EvaluationTexts
from llamafarm_ray.data.quality.judge import JUDGE_COLUMNS, CheckByJudge
from llamafarm_ray.data.quality.new_rows import NewRowCheck
from llamafarm_ray.data.quality.whole_set import FILTER_COLUMNS, whole_set_filters
from llamafarm_ray.data.ray_data import num_workers, rows_of
from llamafarm_ray.data.rows import ROW_SCHEMA
from llamafarm_ray.data.steps import Deduplicate, Ledger

__all__ = ["Examples"]

_ROWS_A_TASK = 4096


class Examples:
    """The examples of the whole dataset, sorted by content; it can be iterated any number of times.

    Sorted like this duplicates stand side by side, and the order is the same however the documents were spread. Few
    examples are sorted in this process, because Ray would start workers for it.

    Args:
        quality: the filters; ``fault_of`` applies those of single examples to rows that are made of these.
        judge: judges the examples that all other filters keep; None: no judge.
    """

    _ORDER = ("key", "document", "position")

    def __init__(
        self,
        harvest: Harvest,
        quality: QualityControl,
        evaluation: EvaluationTexts,
        *,
        judge: CheckByJudge | None = None,
    ) -> None:
        self._deduplicate = quality.validation.duplicate_detection
        self._local: pa.Table | None = None
        if harvest.blocks:
            import ray.data  # few examples are sorted here

            harvest.flush()
            self._sorted = ray.data.from_arrow_refs(harvest.blocks).sort(list(self._ORDER)).materialize()
            harvest.blocks.clear()  # sorted, they are in Ray's store once more
        else:
            self._local = pa.concat_tables(harvest.rows).sort_by([(name, "ascending") for name in self._ORDER])

        self.fault_of = NewRowCheck(quality, evaluation)
        self._judge_columns = JUDGE_COLUMNS if judge is not None else ()
        self._filters = (*whole_set_filters(quality, evaluation, self._tables), *((judge,) if judge else ()))

    def rows(self, columns: Sequence[str], ledger: Ledger) -> Iterator[Mapping[str, Any]]:
        """Stream these columns and ``key``, without duplicates and filtered rows, counting in ``ledger``."""
        of_filters = FILTER_COLUMNS if self._filters or self._deduplicate else ()
        needed = list(dict.fromkeys(["key", *columns, *of_filters, *self._judge_columns]))
        rows: Iterator[Mapping[str, object]] = (
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

    def by_document(self, ids: Container[str]) -> Iterator[Mapping[str, object]]:
        """Stream the rows with these ids, each once, those of a document together and in its order."""
        columns, order = [*ROW_SCHEMA.names, "fact", "extra", "covers"], ["document", "position"]
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
