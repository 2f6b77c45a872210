"""Settings of an endpoint's writer, as they travel to its actor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from llamafarm_ray.config import Endpoint, QaGeneration
from llamafarm_ray.data.generation.choice import Choice
from llamafarm_ray.data.generation.endpoint.batches import MAX_REQUESTS, BatchTerms
from llamafarm_ray.data.generation.endpoint.cache import AnswerCache
from llamafarm_ray.data.generation.endpoint.client import Terms
from llamafarm_ray.data.generation.endpoint.examples import Asking
from llamafarm_ray.data.generation.endpoint.limits import Prices
from llamafarm_ray.data.generation.endpoint.prompt import PROMPT_VERSION
from llamafarm_ray.data.generation.endpoint.terms import prices_of, terms_of
from llamafarm_ray.data.generation.endpoint.writer import EndpointWriter
from llamafarm_ray.data.rows import Provenance

__all__ = ["EndpointPlan"]

_BATCHES_PER_SLOT = 4


@dataclass(frozen=True, slots=True)
class EndpointPlan:
    """A `WriterPlan` for an OpenAI-compatible endpoint.

    Args:
        asking: decides the pairs, and the digest.
        endpoint: server and limits; they decide no pair.
        base_url: address up to ``/v1``.
        api_key: empty: none is sent.
        cache: folder or URI of the answers.
    """

    asking: Asking
    endpoint: Endpoint
    base_url: str
    api_key: str = field(repr=False)
    cache: str
    name: str = field(default="endpoint", init=False)
    num_cpus: float = field(default=1.0, init=False)
    num_gpus: float = field(default=0.0, init=False)

    @classmethod
    def of(cls, choice: Choice, qa: QaGeneration, *, api_key: str, cache: str) -> Self:
        """Make the plan of a configuration."""
        asking = Asking.of(choice.model, qa, qa.endpoint)
        return cls(asking, qa.endpoint, choice.base_url, api_key, cache)

    @property
    def passages_per_batch(self) -> int:
        """See `WriterPlan`; several times the number of requests at once, so that slots are seldom idle."""
        if self.endpoint.batch:
            return max(1, MAX_REQUESTS // len(self.asking.kinds))
        return _BATCHES_PER_SLOT * self.endpoint.concurrency

    @property
    def digest(self) -> str:
        """See `WriterPlan`."""
        return self.asking.digest

    @property
    def prices(self) -> Prices:
        """Prices of tokens, as far as they are configured."""
        return prices_of(self.endpoint)

    def open(self) -> EndpointWriter:
        """Return the writer; nothing is sent before it writes."""
        provenance = Provenance(self.name, self.asking.model, PROMPT_VERSION, self.digest)
        batches = BatchTerms(self.cache, self.price_factor) if self.endpoint.batch else None
        return EndpointWriter(self.asking, self.terms(), AnswerCache(self.cache), provenance, batches=batches)

    @property
    def price_factor(self) -> float:
        """Price of a request in parts of the usual one."""
        return self.endpoint.batch_price_factor if self.endpoint.batch else 1.0

    def terms(self) -> Terms:
        """Return the server with its limits, of which nothing is used yet."""
        return terms_of(self.endpoint, self.base_url, self.api_key, "dataset.preprocessing.qa_generation.endpoint")
