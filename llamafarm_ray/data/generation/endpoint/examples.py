"""The request to a model for a passage, and the examples in its answers, by any engine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

from llamafarm_ray.config import QaGeneration
from llamafarm_ray.config.sections.generation import PHRASINGS
from llamafarm_ray.data.coverage import facts_of
from llamafarm_ray.data.generation.endpoint import tool_calls
from llamafarm_ray.data.generation.endpoint.answers import BadAnswerError, examples_from, objects_in, parse_answer
from llamafarm_ray.data.generation.endpoint.client import RefusedError
from llamafarm_ray.data.generation.endpoint.prompt import (
    PAIR_FIELDS,
    PROMPT_VERSION,
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
from llamafarm_ray.data.generation.tool_files import read_tools
from llamafarm_ray.data.generation.writer import Written
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Example, Provenance
from llamafarm_ray.types import Digest

__all__ = ["AskedFor", "Asking", "Found", "Reader", "reader_of", "requests_of", "together", "written_of"]


class Sampling(Protocol):
    """A section of the configuration with the settings of sampling."""

    @property
    def temperature(self) -> float:
        """Of sampling."""

    @property
    def max_output_tokens(self) -> int:
        """Longest answer."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Settings that decide a model's request.

    Args:
        questions_per_doc: pairs wanted of a document; None: one for each fact.
        phrasings: wordings of each question.
        unanswerable: ask for questions too that the passage does not answer.
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

    @classmethod
    def of(cls, model: str, qa: QaGeneration, sampling: Sampling) -> Self:
        """Return the settings of a configuration."""
        return cls(
            model=model,
            temperature=sampling.temperature,
            max_output_tokens=sampling.max_output_tokens,
            questions_per_doc=qa.questions_per_doc,
            phrasings=qa.phrasings or PHRASINGS,
            unanswerable=qa.unanswerable,
            kinds=qa.kinds,
            variety=Variety(qa.personas, tuple(sorted(qa.difficulty.items()))),
            tools=_tool_box(qa),
        )

    @property
    def digest(self) -> str:
        """Digest of the prompt's version and the settings."""
        asked = asdict(self)
        if not self.tools.tools:
            del asked["tools"]
        said = json.dumps([PROMPT_VERSION, asked], sort_keys=True)
        return Digest.of(said.encode()).short


def _tool_box(qa: QaGeneration) -> ToolBox:
    if qa.tools is None:
        return ToolBox()
    return ToolBox(tuple(json.dumps(tool, ensure_ascii=False) for tool in read_tools(Path(qa.tools).expanduser())))


@dataclass(frozen=True, slots=True)
class AskedFor:
    """A request.

    Args:
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


def reader_of(passage: Passage, asked: AskedFor, asking: Asking, provenance: Provenance) -> Reader:
    """Return the function that reads the answer to a request.

    Args:
        provenance: recorded with each example.
    """
    provenance = replace(provenance, persona=asking.variety.persona_of(passage))

    def read(text: str) -> Found:
        if asked.kind == "questions":
            return examples_from(parse_answer(text), passage, provenance, unanswerable=asking.unanswerable)
        reads = asking.tools.read if asked.kind == tool_calls.KIND else TASKS[asked.kind].read
        return examples_of_task(objects_in(text, "items"), asked.kind, passage, provenance, read=reads)

    return read


def written_of(answer: Found | BadAnswerError | RefusedError) -> Written:
    """Return the examples of an answer, or the reason why there are none."""
    if isinstance(answer, BadAnswerError):
        return Written(dropped={"answer is not the JSON that was asked for": 1})
    if isinstance(answer, RefusedError):
        return Written(dropped={"request refused by the model": 1})
    examples, dropped = answer
    return Written(tuple(examples), dropped)


def together(written: Sequence[Written], passage: Passage) -> Written:
    """Return the examples of all answers about a passage."""
    if not written:
        why = "questions_per_doc is reached" if facts_of(passage.text) else "it has no fact of three words"
        return Written(dropped={f"passage not asked about: {why}": 1})
    dropped: Counter[str] = Counter()
    for one in written:
        dropped.update(one.dropped)
    return Written(tuple(example for one in written for example in one.examples), dropped)
