"""Send passages to one actor that holds a model's writer, batch by batch, and take its pairs."""

from __future__ import annotations

import json
import pickle
import time
import warnings
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from llamafarm_ray.capacity import is_on_one_machine
from llamafarm_ray.data.generation.cluster import VllmPlan
from llamafarm_ray.data.generation.plans import EnginePlan
from llamafarm_ray.data.generation.writer import PairWriter, WriterPlan, Written
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Example
from llamafarm_ray.errors import IntegrityError, LlamaFarmError
from llamafarm_ray.types import DeviceUse

__all__ = ["batches_of", "read_written", "write_pairs", "written_table"]

_PASSAGES = pa.schema([("batch", pa.int64()), ("passage", pa.string())])
_RESULTS = pa.schema(
    [("batch", pa.int64()), ("written", pa.string()), ("error", pa.binary()), ("seconds", pa.float64())]
)
"""The first row of a batch has the seconds that the batch took."""


def batches_of(passages: Sequence[Passage], size: int) -> list[tuple[Passage, ...]]:
    """Divide passages into batches of ``size``, the last one smaller."""
    return [tuple(passages[start : start + size]) for start in range(0, len(passages), size)]


def write_pairs(
    plan: EnginePlan, batches: Sequence[Sequence[Passage]], on_use: Callable[[DeviceUse], None]
) -> Iterator[list[Written]]:
    """Yield the pairs of each batch, in order. Needs a connected Ray.

    Args:
        plan: a writer's is opened once, in an actor; vLLM has engines of its own on the cluster.
        batches: each is one block of Ray Data, so that it reaches the writer as it is.
        on_use: called with the use of devices by each batch; the first one's has the opening of the model in it.

    Raises:
        LlamaFarmError: the writer's own.
    """
    if not batches:
        return
    import ray.data  # a build without a model does without
    from ray.util.annotations import RayDeprecationWarning

    if isinstance(plan, VllmPlan):
        from llamafarm_ray.data.generation.cluster.stage import write_in_cluster  # imports transformers

        yield from write_in_cluster(plan, batches, on_use)
        return
    tables = [
        pa.table({"batch": [index] * len(batch), "passage": [passage.to_json() for passage in batch]}, schema=_PASSAGES)
        for index, batch in enumerate(batches)
    ]
    # Of an actor that it would restart Ray warns at length. On one machine the next build goes on from what is written.
    restarts: dict[str, object] = {"max_restarts": 0} if is_on_one_machine() else {}
    with warnings.catch_warnings():
        # `max_restarts` has no parameter of its own, and Ray deprecates the only way to pass it.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        results = ray.data.from_blocks(tables).map_batches(
            _Writing,
            fn_constructor_args=(plan,),
            batch_size=None,
            batch_format="pyarrow",
            concurrency=1,
            num_cpus=plan.num_cpus,
            num_gpus=plan.num_gpus,
            **restarts,
        )
    waiting: dict[int, list[Written]] = {}
    next_index = 0
    devices = plan.num_gpus or plan.num_cpus
    for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        on_use(DeviceUse(devices * (pc.sum(table.column("seconds")).as_py() or 0.0), on_gpu=plan.num_gpus > 0))
        for row in table.to_pylist():
            if row["error"] is not None:
                raise pickle.loads(row["error"])  # noqa: S301  pickled by the actor above
            waiting.setdefault(row["batch"], []).append(_from_json(row["written"]))
        while next_index in waiting:  # Ray Data doesn't promise the order of blocks
            yield waiting.pop(next_index)
            next_index += 1


def written_table(written: Sequence[Written]) -> pa.Table:
    """Return the pairs of a batch as a table."""
    return pa.table({"written": [_to_json(one) for one in written]})


def read_written(table: pa.Table) -> list[Written]:
    """Read what `written_table` returned."""
    return [_from_json(text) for text in table.column("written").to_pylist()]


class _Writing:
    """The actor: a shell over the writer, which it opens for the first batch."""

    def __init__(self, plan: WriterPlan) -> None:
        self._plan = plan
        self._writer: PairWriter | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        start = time.perf_counter()
        passages = [Passage.from_json(text) for text in block.column("passage").to_pylist()]
        batch = block.column("batch").to_pylist()
        try:
            written: list[str | None] = [_to_json(one) for one in self._write(passages)]
            errors: list[bytes | None] = [None] * len(batch)
        # Ray Data would log the error at length and lose its type, so it travels as a value.
        except LlamaFarmError as error:
            batch, written, errors = batch[:1], [None], [pickle.dumps(error)]
        seconds = [time.perf_counter() - start, *[0.0] * (len(batch) - 1)]
        columns = {"batch": batch, "written": written, "error": errors, "seconds": seconds}
        return pa.table(columns, schema=_RESULTS)

    def _write(self, passages: Sequence[Passage]) -> list[Written]:
        if self._writer is None:
            self._writer = self._plan.open()
        written = list(self._writer.write(passages))
        if len(written) != len(passages):
            raise IntegrityError(f"{self._writer.name} gave {len(written)} results for {len(passages)} passages.")
        return written


def _to_json(written: Written) -> str:
    examples = [example.to_json() for example in written.examples]
    return json.dumps({"examples": examples, "dropped": dict(written.dropped)}, sort_keys=True)


def _from_json(text: str) -> Written:
    values = json.loads(text)
    return Written(tuple(map(Example.from_json, values["examples"])), values["dropped"])
