"""Kinds of examples beside questions: the prompt for each, and its answers as examples.

Every kind is asked with the passage alone and answers with objects of its own fields. They become conversations, and
each answer in them is checked against the passage like that of a question.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from llamafarm_ray.data.generation.endpoint.answers import (
    MAX_CHARS,
    BadAnswerError,
    difficulty_of,
    one_line,
    points_at_passage,
    text_of,
)
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Example, Message, Provenance
from llamafarm_ray.data.steps import MIN_SUPPORT
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.text.support import support

__all__ = ["COMMON_RULES", "TASKS", "Draft", "Reader", "Task", "examples_of_task"]

_MIN_GROUNDED = 0.5
COMMON_RULES = """\
You write training data from a passage for people who do not have it in front of them.

Rules:
- Write in the language of the passage.
- Name the subject wherever somebody asks: never "it" alone, and never "the passage", "the text" or "the document".
- Say only what the passage says: all numbers, names and conditions as they stand there.
"""


@dataclass(frozen=True, slots=True)
class Draft:
    """A conversation that an answer holds.

    Args:
        extra: see `Example.extra`.
    """

    messages: tuple[Message, ...]
    extra: str = ""


Reader = Callable[[Mapping[str, object], Passage], Draft | str]
"""A function that returns the conversation in an element of an answer, or the reason to drop it."""


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of examples.

    Args:
        wanted: the rules of the prompt that are the kind's own.
        noun: an element of the answer in words, for "Write 2 instructions".
        facts_per_item: facts of a passage for one element; 0: one element of each passage.
        read: returns the conversation in an element, or the reason to drop it.
    """

    wanted: str
    noun: str
    fields: tuple[str, ...]
    facts_per_item: int
    read: Reader

    def num_wanted(self, num_facts: int) -> int:
        """Return the number of elements to ask for."""
        return 1 if not self.facts_per_item else max(1, num_facts // self.facts_per_item)

    @property
    def system(self) -> str:
        """The system turn of the prompt."""
        shape = ", ".join(f'"{name}": {_EXAMPLES.get(name, _QUOTED)}' for name in self.fields)
        return f'{COMMON_RULES}{self.wanted}\nAnswer with JSON only: {{"items": [{{{shape}}}]}}'


_QUOTED = '"..."'
_EXAMPLES = {"turns": '["user: ...", "assistant: ..."]'}


def examples_of_task(
    items: Sequence[Mapping[str, object]], kind: str, passage: Passage, provenance: Provenance, *, read: Reader
) -> tuple[list[Example], Counter[str]]:
    """Return the examples in the elements of an answer, and the number of dropped ones by reason.

    Args:
        kind: of the examples, as in ``qa_generation.kinds``.
        provenance: recorded with each example, with its kind and difficulty.
        read: returns the conversation in an element, or the reason to drop it.
    """
    examples: list[Example] = []
    dropped: Counter[str] = Counter()
    for item in items:
        draft = read(item, passage)
        if isinstance(draft, str):
            dropped[draft] += 1
            continue
        if any(not message.content or len(message.content) > MAX_CHARS for message in draft.messages):
            dropped["a turn is empty or far too long"] += 1
            continue
        examples.append(
            Example(
                draft.messages,
                passage.document,
                passage.document_digest,
                passage.with_headings,
                text_digest(message.content for message in draft.messages),
                passage.index,
                provenance=replace(provenance, kind=kind, difficulty=difficulty_of(item)),
                extra=draft.extra,
            )
        )
    return examples, dropped


def _instruction(item: Mapping[str, object], _: Passage) -> Draft | str:
    return _pair(text_of(item, "instruction"), text_of(item, "response"))


def _summary(item: Mapping[str, object], passage: Passage) -> Draft | str:
    summary = text_of(item, "summary")
    if len(summary) >= len(passage.text):
        return "summary longer than its passage"
    return Draft((Message("user", f"Summarize this text.\n\n{passage.text}"), Message("assistant", summary)))


def _dialogue(item: Mapping[str, object], _: Passage) -> Draft | str:
    turns = _turns(item)
    roles = [turn.role for turn in turns]
    if len(turns) < 4 or roles != ["user", "assistant"] * (len(turns) // 2):  # two exchanges
        return "dialogue without two exchanges in turn"
    if points_at_passage(turns[0].content):
        return "question points at its passage"
    return Draft(tuple(turns))


def _rewrite(item: Mapping[str, object], passage: Passage) -> Draft | str:
    turns, query = _turns(item), text_of(item, "query")
    if not turns or turns[-1].role != "user":
        return "conversation that does not end with a question"
    if not _is_grounded(query, passage):
        return "query does not fit its passage"
    said = "\n".join(f"{turn.role}: {turn.content}" for turn in turns)
    prompt = f"Rewrite the last question of this conversation as a search query that stands alone.\n\n{said}"
    return Draft((Message("user", prompt), Message("assistant", query)))


def _retrieval(item: Mapping[str, object], passage: Passage) -> Draft | str:
    query = text_of(item, "query")
    if not _is_grounded(query, passage):
        return "query does not fit its passage"
    return _pair(query, text_of(item, "answer"))


def _preference(item: Mapping[str, object], passage: Passage) -> Draft | str:
    question, rejected = text_of(item, "question"), text_of(item, "rejected")
    if not rejected:
        return "no rejected answer"
    if support(rejected, _context(passage), question) >= MIN_SUPPORT:
        return "the passage supports the rejected answer"
    draft = _pair(question, text_of(item, "chosen"))
    return replace(draft, extra=json.dumps({"rejected": rejected})) if isinstance(draft, Draft) else draft


def _pair(question: str, answer: str) -> Draft | str:
    if points_at_passage(question):
        return "question points at its passage"
    return Draft((Message("user", question), Message("assistant", answer)))


def _is_grounded(query: str, passage: Passage) -> bool:
    """Return True if half of a query's words occur in its passage, and all of its numbers."""
    return support(query, _context(passage)) >= _MIN_GROUNDED


def _context(passage: Passage) -> str:
    return "\n".join([passage.title, *passage.headings, passage.text])


def _turns(item: Mapping[str, object]) -> list[Message]:
    turns = item.get("turns")
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise BadAnswerError('The "turns" of an element are not a list of texts.')
    found: list[Message] = []
    for turn in turns:
        role, _, text = turn.partition(":")
        if role.strip().lower() == "user":
            found.append(Message("user", one_line(text)))
        elif role.strip().lower() == "assistant":
            found.append(Message("assistant", one_line(text)))
        else:
            raise BadAnswerError('A turn begins neither with "user:" nor with "assistant:".')
    return found


TASKS: Mapping[str, Task] = {
    "instructions": Task(
        "- Write instructions that somebody who knows the subject can follow without a source: explain, list, compare, "
        "advise, draft a short notice. The response follows the instruction in one to five sentences.",
        "instruction",
        ("instruction", "response"),
        3,
        _instruction,
    ),
    "dialogues": Task(
        "- Write a conversation of two to four exchanges. The first question names its subject, later ones may refer "
        'to it. Each turn begins with "user:" or "assistant:", and the user begins.',
        "dialogue",
        ("turns",),
        0,
        _dialogue,
    ),
    "summaries": Task(
        "- Summarize the passage in one to three sentences: the facts that matter most, nothing about the text itself.",
        "summary",
        ("summary",),
        0,
        _summary,
    ),
    "query_rewrites": Task(
        "- Write the end of a conversation as people type it: short, with references to what was said, perhaps with a "
        'typing mistake. Each turn begins with "user:" or "assistant:", and the last one is a question of the user. '
        "The query says the same as that question, as one types it into a search, and names what it refers to.",
        "conversation with its query",
        ("turns", "query"),
        3,
        _rewrite,
    ),
    "retrieval": Task(
        "- Write queries that people type to find this passage: questions, and a few keywords in a row; not its own "
        "sentences. The answer is one short sentence that the passage supports.",
        "query",
        ("query", "answer"),
        1,
        _retrieval,
    ),
    "preferences": Task(
        "- Write a question, a right and short answer (chosen), and one that sounds as good but is wrong by what the "
        "passage says (rejected): another number, name, condition or reason.",
        "question with its two answers",
        ("question", "chosen", "rejected"),
        2,
        _preference,
    ),
}
"""Kinds by their names in ``qa_generation.kinds``; questions have a prompt of their own."""
