"""What flows through the pipeline: a parsed document, its passages, and the examples (rows) made from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import pyarrow as pa

from llamafarm_ray.data.text import normal_form, text_digest
from llamafarm_ray.types import Digest

__all__ = [
    "EXAMPLE_SCHEMA",
    "ROLES",
    "ROW_SCHEMA",
    "DocumentRecord",
    "Example",
    "Message",
    "ParsedDocument",
    "Passage",
    "Provenance",
    "Section",
    "dataset_digest",
    "with_marks",
]

ROLES = ("system", "user", "assistant")

_TURN = [("role", pa.string()), ("content", pa.string())]
_MESSAGES = pa.list_(pa.struct(_TURN))

ROW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("messages", _MESSAGES),
        ("document", pa.string()),
        ("document_digest", pa.string()),
        ("passage", pa.string()),
        ("provenance", pa.string()),
        ("pii", pa.list_(pa.string())),
    ]
)
"""The columns of a built dataset; the last two are missing from older ones. ``provenance`` is a `Provenance` as JSON,
``pii`` the kinds of personal data in the passage, where they were to be tagged."""

EXAMPLE_SCHEMA = pa.schema(
    [
        *ROW_SCHEMA,
        ("key", pa.string()),
        ("fact", pa.string()),
        ("position", pa.int32()),
        ("covers", pa.list_(pa.int64())),
    ]
)
"""The columns while a dataset is built, with those for deduplication, the split and the report."""


@dataclass(frozen=True, slots=True)
class Section:
    """A run of text under one heading.

    Args:
        headings: the path of headings down to it, outermost first; empty before the first heading.
        blocks: paragraphs, list items and table rows as text, each without line ends. A table row or definition
            reads ``term: definition``.
    """

    headings: tuple[str, ...]
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document after its reader: nothing of the file format is left."""

    path: str
    digest: Digest
    title: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a section, whole sentences; blocks are separated by a line end.

    Args:
        document: path of the document.
        document_digest: digest of its bytes.
        title: its title.
        headings: path of headings down to the section.
        text: the text.
        index: place among the passages of the document.
        num_passages: number of passages of the document; 0 if it is not known yet.
        pii: kinds of personal data that the passage is tagged with.
    """

    document: str
    document_digest: Digest
    title: str
    headings: tuple[str, ...]
    text: str
    index: int
    num_passages: int = 0
    pii: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the passage as JSON, for a column of a table."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` returned."""
        values = json.loads(text)
        digest = Digest(values["document_digest"])
        lists = {name: tuple(values[name]) for name in ("headings", "pii")}
        return cls(**{**values, **lists, "document_digest": digest})


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin of a generated example.

    Args:
        generator: ``rules``, ``endpoint`` or ``base_model``.
        model: name of the model; empty for rules.
        prompt: version of the prompt.
        settings: digest of the settings that the model was asked with.
    """

    generator: str
    model: str = ""
    prompt: str = ""
    settings: str = ""

    def to_json(self) -> str:
        """Return the fields that are not empty as JSON."""
        return json.dumps({name: value for name, value in asdict(self).items() if value}, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Args:
        role: of the speaker.
        content: the text.
        train: false for an assistant turn that is context only; None, the default, for any other turn.
    """

    role: Literal["system", "user", "assistant"]
    content: str
    train: Literal[False] | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Texts that tell the turn from others, for digests."""
        return (self.role, self.content) if self.train is None else (self.role, self.content, "not trained")

    def to_turn(self) -> dict[str, Any]:
        """Return the turn as a row of a dataset has it."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        return turn if self.train is None else {**turn, "train": self.train}


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a dataset.

    Args:
        messages: the conversation to learn from.
        document: path of the source document, relative to the source root.
        document_digest: digest of that document's bytes.
        passage: the text the example came from.
        fact: what the example teaches; the phrasings of one question share it. By default the example itself.
        passage_index: where in the document the passage stands.
        rank: how good the question is among those of its document, 0 the best.
        provenance: the generator; None for a row that was not generated.
    """

    messages: tuple[Message, ...]
    document: str
    document_digest: str
    passage: str
    fact: str = ""
    passage_index: int = 0
    rank: int = 0
    provenance: Provenance | None = None

    @property
    def id(self) -> str:
        """Digest of the exact messages, 64 hexadecimal digits."""
        return text_digest(part for message in self.messages for part in message.parts)

    @property
    def key(self) -> str:
        """Digest of what the messages say: two examples with one key are duplicates of each other."""
        return text_digest(part for message in self.messages for part in (message.role, normal_form(message.content)))

    @property
    def question(self) -> str:
        """The last user turn, empty if there is none."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def answer(self) -> str:
        """The last assistant turn, empty if there is none."""
        return next((m.content for m in reversed(self.messages) if m.role == "assistant"), "")

    def row(self) -> dict[str, Any]:
        """The columns of ``ROW_SCHEMA``."""
        return {
            "id": self.id,
            "messages": [message.to_turn() for message in self.messages],
            "document": self.document,
            "document_digest": self.document_digest,
            "passage": self.passage,
            "provenance": self.provenance.to_json() if self.provenance else None,
            "pii": None,
        }

    def build_row(self, position: int, covers: Iterable[int] = (), pii: Sequence[str] = ()) -> dict[str, Any]:
        """Return the columns of ``EXAMPLE_SCHEMA``.

        Args:
            position: the example's place among those of its document.
            covers: numbers of the facts of its document that it teaches, see `llamafarm_ray.data.coverage`.
            pii: kinds of personal data that its passage is tagged with.
        """
        built = {"key": self.key, "fact": self.fact or self.key, "position": position, "covers": list(covers)}
        return {**self.row(), **built, "pii": list(pii) or None}

    def to_json(self) -> str:
        """Return the example as JSON, for a column of a table."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` returned."""
        values = json.loads(text)
        values["messages"] = tuple(Message(**message) for message in values["messages"])
        values["provenance"] = Provenance(**values["provenance"]) if values["provenance"] else None
        return cls(**values)


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """A source document of a dataset, and how many of its examples are in there."""

    path: str
    digest: str
    num_examples: int


def with_marks(schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """Return ``schema``, with a field ``train`` in the turns if ``rows`` has a turn that is not to be trained."""
    if "messages" not in schema.names or not any("train" in turn for row in rows for turn in row["messages"]):
        return schema
    marked = pa.list_(pa.struct([*_TURN, ("train", pa.bool_())]))
    return schema.set(schema.get_field_index("messages"), pa.field("messages", marked))


def dataset_digest(splits: Mapping[str, Iterable[Mapping[str, Any]]]) -> Digest:
    """The digest of a dataset: over each row's split, id and document, in an order that no partition changes.

    Args:
        splits: ``train`` and ``validation``, each with rows that have (at least) id, document and document_digest.
    """
    lines = sorted(
        f"{split}\t{row['id']}\t{row['document_digest']}\t{row['document']}\n"
        for split, rows in splits.items()
        for row in rows
    )
    return Digest.of("".join(lines).encode("utf-8", "surrogatepass"))
