"""Rows of the pipeline: the examples made from passages, and the columns that they are written with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

import pyarrow as pa

from llamafarm_ray.data.parsed import Metadata, Passage, TablePlace, metadata_of
from llamafarm_ray.data.text import normal_form, text_digest
from llamafarm_ray.types import Digest

__all__ = [
    "EXAMPLE_SCHEMA",
    "ROLES",
    "ROW_SCHEMA",
    "DocumentRecord",
    "Example",
    "Message",
    "Provenance",
    "chat_id",
    "dataset_digest",
    "digest_line",
    "digest_of_lines",
    "with_optional",
]

ROLES = ("system", "user", "assistant", "tool")

_PLACE = {"page", "headings", "links", "tables", "metadata"}

_TURN = [("role", pa.string()), ("content", pa.string())]
_OPTIONAL_IN_TURNS = [
    ("train", pa.bool_()),
    ("tool_calls", pa.string()),
    ("name", pa.string()),
    ("tool_call_id", pa.string()),
    ("images", pa.list_(pa.string())),
]
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
        ("extra", pa.string()),
    ]
)
"""The columns while a dataset is built, with those for deduplication, the split and the report, and `Example.extra`."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin of a generated example.

    Args:
        generator: ``rules``, ``endpoint``, ``vllm``, ``base_model``, ``practice``, or ``source`` for a row that
            was there.
        model: name of the model; empty for rules.
        settings: digest of the settings that the model was asked with.
        kind: of the example, as in ``qa_generation.kinds``; empty for questions.
        difficulty: easy, medium or hard, as the model says.
        method: ``synthetic``, or the method of an augmentation.
        parent: id of the row that this one was made from.
        page: page or slide on which its passage begins; None for formats without pages.
        headings: path of headings down to its passage.
        links: targets of the links in its passage.
        tables: rows of tables in its passage.
        metadata: what the record of its passage says beside the text.
    """

    generator: str
    model: str = ""
    prompt: str = ""
    settings: str = ""
    kind: str = ""
    persona: str = ""
    difficulty: str = ""
    method: str = ""
    parent: str = ""
    page: int | None = None
    headings: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    tables: tuple[TablePlace, ...] = ()
    metadata: Metadata = ()

    def placed(self, passage: Passage) -> Self:
        """Return it with the place and the metadata of a passage."""
        names = ("page", "headings", "links", "tables", "metadata")
        return replace(self, **{name: getattr(passage, name) for name in names})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the provenance with these fields."""
        lists = {name: tuple(values.get(name, ())) for name in ("headings", "links")}
        places = (place if isinstance(place, TablePlace) else TablePlace(**place) for place in values.get("tables", ()))
        metadata = metadata_of(values.get("metadata", ()))
        return cls(**{**values, **lists, "tables": tuple(places), "metadata": metadata})

    def to_json(self) -> str:
        """Return the fields that are not empty as JSON."""
        fields = asdict(self) | {"metadata": dict(self.metadata)}
        return json.dumps({name: value for name, value in fields.items() if value}, ensure_ascii=False)

    @staticmethod
    def without_place(text: str | None) -> str | None:
        """Return what `to_json` returned, without the place and the metadata of the passage."""
        kept = {name: value for name, value in json.loads(text or "{}").items() if name not in _PLACE}
        return json.dumps(kept, ensure_ascii=False) if kept else None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Args:
        content: the text; empty only beside tool calls, or as a tool's result.
        train: false for an assistant turn that is context only; None, the default, for any other turn.
        tool_calls: the calls of an assistant turn as JSON, in OpenAI's form with arguments as an object.
        name: of the tool whose result this is.
        tool_call_id: of the call whose result this is.
        images: paths or addresses of images, each for a mark in the text: see `llamafarm_ray.data.formats.images`.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    train: Literal[False] | None = None
    tool_calls: str | None = None
    name: str | None = None
    tool_call_id: str | None = None
    images: tuple[str, ...] = ()

    @classmethod
    def of(cls, turn: Mapping[str, Any]) -> Message:
        """Return the turn of a row of a dataset."""
        named = (turn.get("tool_calls"), turn.get("name"), turn.get("tool_call_id"))
        train: Literal[False] | None = False if turn.get("train") is False else None
        return cls(turn["role"], turn["content"], train, *named, images=tuple(turn.get("images") or ()))

    @property
    def parts(self) -> tuple[str, ...]:
        """Texts that tell the turn from others, for digests."""
        marks = () if self.train is None else ("not trained",)
        calls = [f"{name}: {value}" for name, value in self._optional() if value]
        images = ["images", *self.images] if self.images else []
        return (self.role, self.content, *marks, *calls, *images)

    def to_turn(self) -> dict[str, object]:
        """Return the turn as a row of a dataset has it."""
        turn: dict[str, object] = {"role": self.role, "content": self.content}
        if self.train is not None:
            turn["train"] = self.train
        images = {"images": list(self.images)} if self.images else {}
        return {**turn, **{name: value for name, value in self._optional() if value}, **images}

    def _optional(self) -> tuple[tuple[str, str | None], ...]:
        return (("tool_calls", self.tool_calls), ("name", self.name), ("tool_call_id", self.tool_call_id))


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a dataset.

    Args:
        messages: the conversation to learn from.
        document: path of the source document, relative to the source root.
        document_digest: digest of that document's bytes.
        passage: the text the example came from.
        fact: fact that the example teaches; all phrasings of one question share it. By default the example itself.
        rank: rank of the question among those of its document, 0 for the best.
        provenance: the generator; None for a row that was not generated.
        extra: values that the kind of the row has beside its messages, as JSON: see `llamafarm_ray.data.row_kinds`.
    """

    messages: tuple[Message, ...]
    document: str
    document_digest: str
    passage: str
    fact: str = ""
    passage_index: int = 0
    rank: int = 0
    provenance: Provenance | None = None
    extra: str = ""

    @property
    def id(self) -> str:
        """Digest of the exact messages, 64 hexadecimal digits."""
        return chat_id(self.messages)

    @property
    def key(self) -> str:
        """Digest of an example's content: two examples with one key are duplicates of each other."""
        said = [part for message in self.messages for part in (message.role, normal_form(message.content))]
        return text_digest([*said, self.extra] if self.extra else said)

    @property
    def question(self) -> str:
        """The last user turn, empty if there is none."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def answer(self) -> str:
        """The last assistant turn, empty if there is none."""
        return next((m.content for m in reversed(self.messages) if m.role == "assistant"), "")

    @property
    def answers(self) -> tuple[str, ...]:
        """All assistant turns."""
        return tuple(message.content for message in self.messages if message.role == "assistant")

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

    def build_row(self, position: int, covers: Iterable[int] = (), pii: Sequence[str] = ()) -> dict[str, object]:
        """Return the columns of ``EXAMPLE_SCHEMA``.

        Args:
            position: the example's place among those of its document.
            covers: numbers of the facts of its document that it teaches, see `llamafarm_ray.data.coverage`.
            pii: kinds of personal data that its passage is tagged with.
        """
        built = {"key": self.key, "fact": self.fact or self.key, "position": position, "covers": list(covers)}
        built["extra"] = self.extra
        return {**self.row(), **built, "pii": list(pii) or None}

    def to_json(self) -> str:
        """Return the example as JSON, for a column of a table."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` returned."""
        values = json.loads(text)
        values["messages"] = tuple(
            Message(**{**message, "images": tuple(message["images"])}) for message in values["messages"]
        )
        origin = values["provenance"]
        values["provenance"] = Provenance.of(origin) if origin else None
        return cls(**values)


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """A source document of a dataset, and how many of its examples are in there."""

    path: str
    digest: str
    num_examples: int


def chat_id(messages: Iterable[Message], tools: str | None = None) -> str:
    """Return the id of a conversation: a digest of its exact turns and tools, 64 hexadecimal digits."""
    parts = [part for message in messages for part in message.parts]
    return text_digest([*parts, "tools", tools] if tools else parts)


def with_optional(schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """Return ``schema`` with the optional fields that ``rows`` use: of their turns, and the column ``tools``."""
    if "messages" not in schema.names:
        return schema
    used: set[str] = set()
    for row in rows:
        if row.get("tools"):
            used.add("tools")
        for turn in row["messages"]:
            used |= turn.keys()
    turn_fields = [field for field in _OPTIONAL_IN_TURNS if field[0] in used]
    messages = pa.list_(pa.struct([*_TURN, *turn_fields]))
    changed = schema.set(schema.get_field_index("messages"), pa.field("messages", messages))
    return changed.append(pa.field("tools", pa.string())) if "tools" in used else changed


def dataset_digest(splits: Mapping[str, Iterable[Mapping[str, object]]]) -> Digest:
    """The digest of a dataset: over each row's split, id and document, in an order that no partition changes.

    Args:
        splits: ``train`` and ``validation``, each with rows that have (at least) id, document and document_digest.
    """
    return digest_of_lines(digest_line(split, row) for split, rows in splits.items() for row in rows)


def digest_line(split: str, row: Mapping[str, object]) -> bytes:
    """Return a row's part in the digest of its dataset; it has (at least) id, document and document_digest."""
    line = f"{split}\t{row['id']}\t{row['document_digest']}\t{row['document']}\n"
    return line.encode("utf-8", "surrogatepass")


def digest_of_lines(lines: Iterable[bytes]) -> Digest:
    """Return the digest of a dataset, of the lines of its rows in any order."""
    state = hashlib.sha256()
    for line in sorted(lines):  # in UTF-8 the order of bytes is that of code points
        state.update(line)
    return Digest(f"sha256:{state.hexdigest()}")
