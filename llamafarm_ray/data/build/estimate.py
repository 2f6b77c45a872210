"""Estimate of requests, tokens and cost before an endpoint writes pairs, invents examples or changes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.config.sections.generation import PHRASINGS
from llamafarm_ray.data.build.documents import files_table, process_documents
from llamafarm_ray.data.build.existing_rows import holds_rows, read_source_rows
from llamafarm_ray.data.build.tasks import tasks_of
from llamafarm_ray.data.coverage import facts_of
from llamafarm_ray.data.expansion import expansion_models
from llamafarm_ray.data.expansion.asking import SHOWN_EXAMPLES, SYSTEM_PROMPTS
from llamafarm_ray.data.generation import Choice, choose_generator, plan_writer
from llamafarm_ray.data.generation.endpoint import EndpointPlan
from llamafarm_ray.data.generation.endpoint.cache import AnswerCache, request_key
from llamafarm_ray.data.generation.endpoint.examples import requests_of
from llamafarm_ray.data.generation.endpoint.limits import num_tokens_estimated
from llamafarm_ray.data.generation.endpoint.prompt import num_pairs_of
from llamafarm_ray.data.generation.endpoint.terms import prices_of
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.sources import Sources, discover
from llamafarm_ray.errors import InputError

__all__ = ["PairsEstimate", "estimate_pairs"]

_TOKENS_PER_PAIR = 60
_TOKENS_PER_QUESTION = 25
_ROWS_PER_GROUP = 5  # without a passage


@dataclass(frozen=True, slots=True)
class PairsEstimate:
    """Work for an endpoint.

    Args:
        model: the model to ask; several with commas.
        passages: passages of the documents, or of rows that exist.
        requests: requests to send for pairs, one for each passage and kind; stored answers need none.
        input_tokens: tokens of the prompts, without the model's tokenizer: one for four bytes.
        output_tokens: tokens of the answers, 60 for each wording of a pair, not above ``max_output_tokens``.
        cost_usd: at the configured prices; None without them. Failed and bad answers come on top.
        price_factor: price of a request for pairs in parts of the usual one, in which ``cost_usd`` is: less in batches.
        expansion_requests: most requests for invented examples and changed copies, whose tokens and cost are in the
            sums; what is held out or dropped, and answers that are stored, need none.
    """

    model: str
    passages: int
    requests: int
    stored: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    price_factor: float = 1.0
    expansion_requests: int = 0


@dataclass(frozen=True, slots=True)
class _Group:
    """Examples that new ones are made of together.

    Args:
        text: of their passage; "" for rows that name none.
    """

    text: str
    num_questions: int


@dataclass
class _Work:
    """Requests and their tokens."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, input_tokens: int, output_tokens: int, *, times: int = 1) -> None:
        self.requests += times
        self.input_tokens += times * input_tokens
        self.output_tokens += times * output_tokens


def estimate_pairs(
    source: str | Path | Sequence[str], config: DatasetConfig, *, cache: str, base_model: str | None = None
) -> PairsEstimate:
    """Read the source in this process, and add up the requests for examples. Nothing is sent.

    Args:
        source: see `build_dataset`.
        config: the ``dataset`` section of a configuration.
        cache: see `build_dataset`.
        base_model: see `build_dataset`.

    Raises:
        InputError: the source is missing or has nothing that can be read, or no endpoint writes examples.
    """
    qa = config.preprocessing.qa_generation
    models = expansion_models(config, base_model=base_model, environment=os.environ)
    expanding = {name: choice for name, choice in models.items() if choice.generator == "endpoint"}
    pairs, expansion = _Work(), _Work()
    passages = stored = 0
    plan: EndpointPlan | None = None
    if config.makes_questions and not holds_rows(config, source):
        plan = _pairs_plan(config, cache=cache, base_model=base_model, is_alone=not expanding)
        answers = AnswerCache(cache)
        for passage in _passages(discover(source), config):
            passages += 1
            stored += _add_pairs(pairs, passage, plan, answers) if plan else 0
            _add_expansion(expansion, _group_of(passage, config), config, expanding)
    elif not expanding:
        raise InputError("There is no cost to estimate: no endpoint writes pairs, invents or changes examples.")
    else:
        for group in _groups_of_rows(source, config):
            passages += 1
            _add_expansion(expansion, group, config, expanding)
    factor = plan.price_factor if plan else 1.0
    costs = [prices_of(qa.endpoint).cost(work.input_tokens, work.output_tokens) for work in (pairs, expansion)]
    cost = None if costs[0] is None or costs[1] is None else costs[0] * factor + costs[1]
    asked = [*([plan.asking.model] if plan else []), *(choice.model for choice in expanding.values())]
    return PairsEstimate(
        ", ".join(dict.fromkeys(asked)),
        passages,
        pairs.requests,
        stored,
        pairs.input_tokens + expansion.input_tokens,
        pairs.output_tokens + expansion.output_tokens,
        cost,
        factor,
        expansion.requests,
    )


def _pairs_plan(config: DatasetConfig, *, cache: str, base_model: str | None, is_alone: bool) -> EndpointPlan | None:
    """Return the plan of the endpoint that writes pairs; None if another engine does.

    Raises:
        InputError: another engine does, and nothing else asks an endpoint.
    """
    qa = config.preprocessing.qa_generation
    choice = choose_generator(qa, base_model=base_model, environment=os.environ)
    plan = plan_writer(choice, qa, cache=cache, environment=os.environ)
    if isinstance(plan, EndpointPlan):
        return plan
    if is_alone:
        raise InputError(
            f"There is no cost to estimate: the pairs are written by {choice.generator}.",
            hint="Set dataset.preprocessing.qa_generation.model to a model of an endpoint.",
        )
    return None


def _add_pairs(work: _Work, passage: Passage, plan: EndpointPlan, answers: AnswerCache) -> int:
    """Add the requests for pairs about a passage, and return the number of those that were answered before."""
    stored = 0
    for asked in requests_of(passage, plan.asking):
        if answers.get(request_key(plan.base_url, asked.body)) is not None:
            stored += 1
            continue
        wordings = plan.asking.phrasings if asked.kind == "questions" else 1
        output = min(asked.num_items * wordings * _TOKENS_PER_PAIR, plan.asking.max_output_tokens)
        work.add(sum(num_tokens_estimated(message["content"]) for message in asked.body["messages"]), output)
    return stored


def _add_expansion(work: _Work, group: _Group, config: DatasetConfig, expanding: Mapping[str, Choice]) -> None:
    """Add the requests for new examples of a group."""
    limit = config.preprocessing.qa_generation.endpoint.max_output_tokens
    if group.num_questions and "synthetic_generation" in expanding:
        shown = min(group.num_questions, SHOWN_EXAMPLES) * _TOKENS_PER_PAIR
        (system,) = SYSTEM_PROMPTS["synthetic_generation"]
        count = config.synthetic_generation.examples_per_passage
        prompt = num_tokens_estimated(system) + num_tokens_estimated(group.text) + shown
        work.add(prompt, min(count * _TOKENS_PER_PAIR, limit))
    if "augmentation" in expanding:
        for method in config.augmentation.methods:
            for system in SYSTEM_PROMPTS.get(method, ()):
                prompt = num_tokens_estimated(system) + _TOKENS_PER_QUESTION
                work.add(prompt, _TOKENS_PER_QUESTION, times=group.num_questions)


def _group_of(passage: Passage, config: DatasetConfig) -> _Group:
    """Return a passage with the number of questions that are asked about it at most."""
    qa = config.preprocessing.qa_generation
    num_pairs = num_pairs_of(passage, qa.questions_per_doc, len(facts_of(passage.text)))
    return _Group(passage.with_headings, num_pairs * (qa.phrasings or PHRASINGS))


def _groups_of_rows(source: str | Path | Sequence[str], config: DatasetConfig) -> Iterator[_Group]:
    """Yield the rows of each passage, and of those without one a few together."""
    counts: dict[str, int] = {}
    for table in read_source_rows(source, config).harvest.rows:
        for passage in table.column("passage").to_pylist():
            counts[passage] = counts.get(passage, 0) + 1
    alone = counts.pop("", 0)
    yield from (_Group(text, count) for text, count in counts.items())
    yield from (_Group("", min(_ROWS_PER_GROUP, alone - start)) for start in range(0, alone, _ROWS_PER_GROUP))


def _passages(sources: Sources, config: DatasetConfig) -> Iterable[Passage]:
    for task in tasks_of(sources.files):
        for result in process_documents(files_table(task), config=config, by_rules=False):
            for document in result.column("passages").to_pylist():
                yield from map(Passage.from_json, document)
