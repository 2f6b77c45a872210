"""Write examples by asking an endpoint: a request for each passage and kind, several at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llamafarm_ray.data.generation.endpoint.asking import Asker
from llamafarm_ray.data.generation.endpoint.batches import BatchTerms
from llamafarm_ray.data.generation.endpoint.cache import AnswerCache
from llamafarm_ray.data.generation.endpoint.client import Terms
from llamafarm_ray.data.generation.endpoint.examples import Asking, reader_of, requests_of, together, written_of
from llamafarm_ray.data.generation.writer import Written
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Provenance

__all__ = ["EndpointWriter"]


class EndpointWriter:
    """A `PairWriter` over an endpoint.

    Args:
        asking: kind, number and variety of the questions.
        terms: server and limits.
        provenance: recorded with each example.
        batches: settings of the server's batch API; None: it is not used.
    """

    name = "endpoint"

    def __init__(
        self,
        asking: Asking,
        terms: Terms,
        cache: AnswerCache,
        provenance: Provenance,
        *,
        batches: BatchTerms | None = None,
    ) -> None:
        self._asking = asking
        self._asker = Asker(terms, cache, batches)
        self._terms = terms
        self._provenance = provenance

    def write(self, passages: Sequence[Passage]) -> Iterator[Written]:
        """See `PairWriter.write`.

        Raises:
            InputError: the server refuses every request of a batch; see `Client.ask` for other errors.
        """
        asked = [(passage, each) for passage in passages for each in requests_of(passage, self._asking)]
        readers = [reader_of(*each, self._asking, self._provenance) for each in asked]
        results: dict[Passage, list[Written]] = {passage: [] for passage in passages}
        answers = self._asker.ask_all([each.body for _, each in asked], readers)
        for (passage, _), answer in zip(asked, answers, strict=True):
            results[passage].append(written_of(answer))
        for passage in passages:
            yield together(results[passage], passage)
