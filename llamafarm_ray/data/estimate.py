"""Estimate of requests, tokens and cost before an endpoint writes pairs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.config.generation import PHRASINGS
from llamafarm_ray.data.documents import files_table, process_documents
from llamafarm_ray.data.generation import choose_generator, plan_writer
from llamafarm_ray.data.generation.endpoint import EndpointPlan
from llamafarm_ray.data.generation.endpoint.cache import AnswerCache, request_key
from llamafarm_ray.data.generation.endpoint.limits import num_tokens_estimated
from llamafarm_ray.data.generation.endpoint.writer import requests_of
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.sources import Sources, discover
from llamafarm_ray.data.stages import tasks_of
from llamafarm_ray.errors import InputError

__all__ = ["PairsEstimate", "estimate_pairs"]

_TOKENS_PER_PAIR = 60


@dataclass(frozen=True, slots=True)
class PairsEstimate:
    """Work for an endpoint.

    Args:
        model: the model to ask.
        passages: passages of the documents.
        requests: requests to send, one for each passage and kind; stored answers need none.
        stored: requests that were answered before.
        input_tokens: tokens of the prompts, without the model's tokenizer: one for four bytes.
        output_tokens: tokens of the answers, 60 for each wording of a pair, not above ``max_output_tokens``.
        cost_usd: at the configured prices; None without them. Failed and bad answers come on top.
        price_factor: price of a request in parts of the usual one, in which ``cost_usd`` is: less in batches.
    """

    model: str
    passages: int
    requests: int
    stored: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    price_factor: float = 1.0


def estimate_pairs(source: str | Path | Sequence[str], config: DatasetConfig, *, cache: str) -> PairsEstimate:
    """Read the documents in this process, and add up the requests for examples. Nothing is sent.

    Args:
        source: see `build_dataset`.
        config: the ``dataset`` section of a configuration.
        cache: see `build_dataset`.

    Raises:
        InputError: the source is missing or has no document, or no endpoint writes the pairs.
    """
    qa = config.preprocessing.qa_generation
    choice = choose_generator(qa, base_model=None, environment=os.environ)
    plan = plan_writer(choice, qa, cache=cache, environment=os.environ)
    if not isinstance(plan, EndpointPlan):
        raise InputError(
            f"There is no cost to estimate: {choice.generator} write the pairs.",
            hint="Set dataset.preprocessing.qa_generation.model to a model of an endpoint.",
        )
    answers = AnswerCache(cache)
    passages = stored = input_tokens = output_tokens = requests = 0
    for passage in _passages(discover(source), config):
        passages += 1
        for asked in requests_of(passage, plan.asking):
            if answers.get(request_key(plan.base_url, asked.body)) is not None:
                stored += 1
                continue
            requests += 1
            input_tokens += sum(num_tokens_estimated(message["content"]) for message in asked.body["messages"])
            wordings = (qa.phrasings or PHRASINGS) if asked.kind == "questions" else 1
            output_tokens += min(asked.num_items * wordings * _TOKENS_PER_PAIR, qa.endpoint.max_output_tokens)
    cost = plan.prices.cost(input_tokens, output_tokens)
    if cost is not None:
        cost *= plan.price_factor
    return PairsEstimate(choice.model, passages, requests, stored, input_tokens, output_tokens, cost, plan.price_factor)


def _passages(sources: Sources, config: DatasetConfig) -> Iterable[Passage]:
    for task in tasks_of(sources.files):
        result = process_documents(files_table(task), config=config, by_rules=False)
        for document in result.column("passages").to_pylist():
            yield from map(Passage.from_json, document)
