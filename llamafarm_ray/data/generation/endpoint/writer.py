"""Write examples by asking an endpoint: a request for each passage and kind, several at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llamafarm_ray.data.coverage import facts_of
from llamafarm_ray.data.generation.endpoint import tool_calls
from llamafarm_ray.data.generation.endpoint.answers import BadAnswerError, examples_from, objects_in, parse_answer
from llamafarm_ray.data.generation.endpoint.asking import Asker
from llamafarm_ray.data.generation.endpoint.batches import BatchTerms
from llamafarm_ray.data.generation.endpoint.cache import AnswerCache
from llamafarm_ray.data.generation.endpoint.client import RefusedError, Terms
from llamafarm_ray.data.generation.endpoint.prompt import (
    PAIR_FIELDS,
    TEXT,
    TEXTS,
    messages_of,
    num_pairs_of,
    request_messages,
    response_format,
)
from llamafarm_ray.data.generation.endpoint.requests import chat_request
from llamafarm_ray.data.generation.endpoint.tasks import TASKS, examples_of_task
from llamafarm_ray.data.generation.endpoint.tool_calls import ToolBox, num_requests
from llamafarm_ray.data.generation.endpoint.variety import Variety
from llamafarm_ray.data.generation.writer import Written
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Example, Provenance

__all__ = ["Asking", "EndpointWriter", "requests_of"]


@dataclass(frozen=True, slots=True)
class Asking:
    """Settings that decide what a model is asked for.

    Args:
        model: its name at the endpoint.
        temperature: of sampling.
        max_output_tokens: longest answer.
        questions_per_doc: pairs wanted of a document; None: one for each fact.
        phrasings: wordings of each question.
        unanswerable: ask for questions too that the passage does not answer.
        kinds: kinds of examples.
        variety: the person who asks, and the difficulty.
        tools: that calls are written for.
    """

    model: str
    temperature: float
    max_output_tokens: int
    questions_per_doc: int | None
    phrasings: int
    unanswerable: bool
    kinds: tuple[str, ...] = ("questions",)
    variety: Variety = field(default_factory=Variety)
    tools: ToolBox = field(default_factory=ToolBox)


@dataclass(frozen=True, slots=True)
class AskedFor:
    """A request.

    Args:
        kind: of the examples.
        num_items: number of examples asked for.
        body: in OpenAI's form.
    """

    kind: str
    num_items: int
    body: dict[str, Any]


def requests_of(passage: Passage, asking: Asking) -> list[AskedFor]:
    """Return the requests for a passage, one for each kind; none if nothing is wanted of it."""
    num_facts = len(facts_of(passage.text))
    found = []
    for kind in asking.kinds:
        most = min(num_facts, _num_wanted(kind, num_facts))
        num_items = min(most, num_pairs_of(passage, asking.questions_per_doc, num_facts))
        if num_items:
            found.append(AskedFor(kind, num_items, _body(passage, kind, num_items, asking)))
    return found


def _num_wanted(kind: str, num_facts: int) -> int:
    if kind == "questions":
        return num_facts
    return num_requests(num_facts) if kind == tool_calls.KIND else TASKS[kind].num_wanted(num_facts)


def _body(passage: Passage, kind: str, num_items: int, asking: Asking) -> dict[str, object]:
    key, fields = "pairs", dict(PAIR_FIELDS)
    if kind == "questions":
        messages = messages_of(
            passage,
            num_items,
            phrasings=asking.phrasings,
            unanswerable=asking.unanswerable,
            variety=asking.variety,
        )
    else:
        key, noun = "items", tool_calls.NOUN
        if kind == tool_calls.KIND:
            system, fields = asking.tools.system(passage), dict(tool_calls.FIELDS)
        else:
            task = TASKS[kind]
            system, noun = task.system, task.noun
            fields = {name: TEXTS if name == "turns" else TEXT for name in task.fields}
        ask = f"Write {num_items} {noun}." if num_items == 1 else f"Write {num_items} of these: {noun}."
        messages = request_messages(system, ask, passage, num_items, asking.variety)
    return chat_request(
        asking.model,
        messages,
        temperature=asking.temperature,
        max_output_tokens=asking.max_output_tokens,
        answer_format=response_format(key, {**fields, **asking.variety.fields}),
    )


Found = tuple[list[Example], Counter[str]]
"""Examples in an answer, and the number of what was dropped by reason."""

Reader = Callable[[str], Found]


class EndpointWriter:
    """A `PairWriter` over an endpoint.

    Args:
        asking: kind, number and variety of the questions.
        terms: server and limits.
        cache: answers so far.
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
        results: dict[Passage, list[Written]] = {passage: [] for passage in passages}
        answers = self._asker.ask_all([each.body for _, each in asked], [self._reader(*each) for each in asked])
        for (passage, _), answer in zip(asked, answers, strict=True):
            results[passage].append(_written(answer))
        for passage in passages:
            yield _together(results[passage], passage)

    def _reader(self, passage: Passage, asked: AskedFor) -> Reader:
        """Return the function that reads the answer to a request."""
        provenance = replace(self._provenance, persona=self._asking.variety.persona_of(passage))

        def read(text: str) -> Found:
            if asked.kind == "questions":
                pairs = parse_answer(text)
                return examples_from(pairs, passage, provenance, unanswerable=self._asking.unanswerable)
            reads = self._asking.tools.read if asked.kind == tool_calls.KIND else TASKS[asked.kind].read
            return examples_of_task(objects_in(text, "items"), asked.kind, passage, provenance, read=reads)

        return read


def _written(answer: Found | BadAnswerError | RefusedError) -> Written:
    if isinstance(answer, BadAnswerError):
        return Written(dropped={"answer is not the JSON that was asked for": 1})
    if isinstance(answer, RefusedError):
        return Written(dropped={"request refused by the endpoint": 1})
    examples, dropped = answer
    return Written(tuple(examples), dropped)


def _together(written: Sequence[Written], passage: Passage) -> Written:
    if not written:
        why = "questions_per_doc is reached" if facts_of(passage.text) else "it has no fact of three words"
        return Written(dropped={f"passage not asked about: {why}": 1})
    dropped: Counter[str] = Counter()
    for one in written:
        dropped.update(one.dropped)
    return Written(tuple(example for one in written for example in one.examples), dropped)
