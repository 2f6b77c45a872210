"""Write the pairs of a build with a model in vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from llamafarm_ray.data.generation.cluster.asking import ClusterAsker, ClusterRequest, Engine
from llamafarm_ray.data.generation.cluster.plan import VllmPlan
from llamafarm_ray.data.generation.endpoint.examples import Found, reader_of, requests_of, together, written_of
from llamafarm_ray.data.generation.writer import Written
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.types import DeviceUse

__all__ = ["write_in_cluster"]


def write_in_cluster(
    plan: VllmPlan,
    batches: Sequence[Sequence[Passage]],
    on_use: Callable[[DeviceUse], None],
    *,
    engine: Engine | None = None,
) -> Iterator[list[Written]]:
    """Yield the pairs of each batch, in order.

    Args:
        batches: passages.
        on_use: called with the use of devices.
        engine: answers requests; by default vLLM.

    Raises:
        InputError: see `ClusterAsker.ask`.
    """
    requests: list[ClusterRequest[Found]] = []
    places: list[list[range]] = []
    for batch in batches:
        places.append([])
        for passage in batch:
            start = len(requests)
            for asked in requests_of(passage, plan.asking):
                read = reader_of(passage, asked, plan.asking, plan.provenance)
                requests.append(ClusterRequest(asked.body, asked.num_items, read))
            places[-1].append(range(start, len(requests)))
    answering = ClusterAsker(plan, on_use, engine=engine).ask(requests)
    written: dict[int, Written] = {}
    for batch, of_passages in zip(batches, places, strict=True):
        while any(index not in written for indices in of_passages for index in indices):
            index, answer = next(answering)
            written[index] = written_of(answer)
        yield [
            together([written.pop(index) for index in indices], passage)
            for passage, indices in zip(batch, of_passages, strict=True)
        ]
    for _ in answering:  # the end of the run counts its time
        pass
