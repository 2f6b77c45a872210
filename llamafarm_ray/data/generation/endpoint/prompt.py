"""The prompt for a passage, and the JSON schema of its answer."""

from __future__ import annotations

from collections.abc import Mapping

from llamafarm_ray.data.generation.endpoint.variety import Variety
from llamafarm_ray.data.parsed import Passage

__all__ = [
    "PAIR_FIELDS",
    "PROMPT_VERSION",
    "TEXT",
    "TEXTS",
    "messages_of",
    "num_pairs_of",
    "request_messages",
    "response_format",
]

PROMPT_VERSION = "1"
"""Raised with every change of the prompt; recorded with each example."""

TEXT: Mapping[str, object] = {"type": "string"}
TEXTS: Mapping[str, object] = {"type": "array", "items": {"type": "string"}}
"""Schemas of the fields of answers."""

PAIR_FIELDS: Mapping[str, object] = {"questions": TEXTS, "answer": TEXT}

_SPARE = 4
_SYSTEM = """\
You write training data: questions that people ask who do not have the passage in front of them, with short answers.

Rules:
- Write in the language of the passage.
- Every question names its subject: "When does the Harbour Library open?", never "When does it open?". Never mention \
the passage, the text, the document or the author.
- Every answer stands alone, is one short sentence, and says only what the passage says: all numbers, names and \
conditions as they stand there.
- Each pair is about another fact. Ask about facts inside long sentences, list items and table rows too. Leave out \
navigation, licences and page headers.
- About half of the pairs ask for one fact, a third need two facts of the passage, the rest ask for a reason, a \
consequence or a comparison that the passage states.
- If the passage has fewer facts than pairs are asked for, write fewer. If it has none, write none.
Answer with JSON only: {"pairs": [{"questions": ["..."], "answer": "..."}]}"""
_UNANSWERABLE = """
- Add one pair whose question fits the subject but is not answered by the passage; its answer is the empty string."""


def num_pairs_of(passage: Passage, questions_per_doc: int | None, num_facts: int) -> int:
    """Return the number of pairs to ask for, so that the passages of a document share ``questions_per_doc`` evenly.

    A quarter more is asked for in all, because some pairs are dropped. A passage of a long document may have none.

    Args:
        passage: its place and the number of passages count.
        questions_per_doc: pairs wanted of the document; None: one for each fact.
    """
    if questions_per_doc is None:
        return num_facts
    wanted = questions_per_doc + -(-questions_per_doc // _SPARE)
    count = max(passage.num_passages, passage.index + 1)
    return min(num_facts, (passage.index + 1) * wanted // count - passage.index * wanted // count)


def messages_of(
    passage: Passage, num_pairs: int, *, phrasings: int, unanswerable: bool, variety: Variety | None = None
) -> list[dict[str, str]]:
    """Return the messages that ask for ``num_pairs`` pairs with ``phrasings`` wordings of each question."""
    wordings = "one wording" if phrasings == 1 else f"{phrasings} different wordings"
    ask = f"Write {num_pairs} pair{'s' if num_pairs > 1 else ''}, with {wordings} of each question."
    return request_messages(_SYSTEM + (_UNANSWERABLE if unanswerable else ""), ask, passage, num_pairs, variety)


def request_messages(
    system: str, ask: str, passage: Passage, num_items: int, variety: Variety | None = None
) -> list[dict[str, str]]:
    """Return a prompt's messages about a passage.

    Args:
        ask: kind and number of the examples to write.
        passage: the passage, with its place in the document.
        num_items: the number in ``ask``.
        variety: the person who asks, and the difficulty.
    """
    place = " > ".join(dict.fromkeys([passage.title, *passage.headings]))
    asked = " ".join([ask, *(variety.sentences(passage, num_items) if variety else ())])
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": f"{asked}\n\nFrom: {place}\n\nPassage:\n{passage.text}"},
    ]


def response_format(key: str, fields: Mapping[str, object]) -> dict[str, object]:
    """Return the schema of an answer, in OpenAI's form for structured outputs.

    Args:
        fields: schema of each field of an element.
    """
    item = {
        "type": "object",
        "properties": dict(fields),
        "required": list(fields),
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {key: {"type": "array", "items": item}},
        "required": [key],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": key, "strict": True, "schema": schema}}
