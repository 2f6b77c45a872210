"""What flows through the pipeline: a parsed document, its passages, and the examples (rows) made from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
    "Section",
    "dataset_digest",
    "fenced",
    "is_code",
    "with_marks",
]

ROLES = ("system", "user", "assistant")

_FENCE = "```"

_TURN = [("role", pa.string()), ("content", pa.string())]
_MESSAGES = pa.list_(pa.struct(_TURN))

ROW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("messages", _MESSAGES),
        ("document", pa.string()),
        ("document_digest", pa.string()),
        ("passage", pa.string()),
    ]
)
"""The columns of a built dataset."""

EXAMPLE_SCHEMA = pa.schema([*ROW_SCHEMA, ("key", pa.string()), ("fact", pa.string()), ("position", pa.int32())])
"""The columns while it is built: what deduplication and the split need comes on top."""


def fenced(code: str) -> str:
    """Return ``code`` as a block between fences, as in Markdown; a fence is longer than any run of ticks in it."""
    fence = _FENCE
    while fence in code:
        fence += "`"
    return f"{fence}\n{code}\n{fence}"


def is_code(block: str) -> bool:
    """Return True if ``block`` is a code block made by :func:`fenced`."""
    return block.startswith(_FENCE) and "\n" in block


@dataclass(frozen=True, slots=True)
class Section:
    """A run of text under one heading.

    Args:
        headings: the path of headings down to it, outermost first; empty before the first heading.
        blocks: paragraphs, list items and table rows as text, each without line ends. A table row or definition
            reads ``term: definition``. A code block keeps its lines between two fences, see :func:`fenced`.
        page: number of the page or slide on which it begins, 1 the first; None for formats without pages.
        record: number of the record it belongs to, 1 the first; 0 for formats without records.
    """

    headings: tuple[str, ...]
    blocks: tuple[str, ...]
    page: int | None = None
    record: int = 0


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document after its reader: nothing of the file format is left.

    Args:
        path: relative to the source.
        digest: of the file's bytes.
        title: "" if it has none.
        sections: its text.
        notes: remarks of the reader for the report, as a part that could not be read.
        language: ISO 639-1 code of most of it, "" if it is not known.
    """

    path: str
    digest: Digest
    title: str
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()
    language: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a section, whole sentences; blocks are separated by a line end. ``index`` counts in the document.

    ``page`` is the page or slide on which it begins, None for formats without pages; ``language`` an ISO 639-1 code,
    "" if it is not known.
    """

    document: str
    document_digest: Digest
    title: str
    headings: tuple[str, ...]
    text: str
    index: int
    page: int | None = None
    language: str = ""

    @property
    def prose(self) -> str:
        """The text without code blocks."""
        lines, fence = [], ""
        for line in self.text.splitlines():
            if fence:
                fence = "" if line == fence else fence
            elif line.startswith(_FENCE) and not line.strip("`"):
                fence = line
            else:
                lines.append(line)
        return "\n".join(lines)


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
    """

    messages: tuple[Message, ...]
    document: str
    document_digest: str
    passage: str
    fact: str = ""
    passage_index: int = 0
    rank: int = 0

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
        }

    def build_row(self, position: int) -> dict[str, Any]:
        """The columns of ``EXAMPLE_SCHEMA``; ``position`` is the example's place among those of its document."""
        return {**self.row(), "key": self.key, "fact": self.fact or self.key, "position": position}


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
