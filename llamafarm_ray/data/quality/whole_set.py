"""Filters that need the whole dataset: near duplicates, distance from the domain, overlap with evaluation sets.

They choose rows, told by document and position, from streams of all rows; a stream can be asked for again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llamafarm_ray.config import QualityControl
from llamafarm_ray.data.quality.decontamination import Decontaminate, EvaluationTexts
from llamafarm_ray.data.quality.near_duplicates import Bands, Signatures, candidates, resolve, sign
from llamafarm_ray.data.steps.base import Dropped, Step
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.data.text.vectors import embed
from llamafarm_ray.text.support import names_and_numbers

__all__ = [
    "FILTER_COLUMNS",
    "DropNearDuplicates",
    "DropOffDomain",
    "Place",
    "Tables",
    "find_near_duplicates",
    "find_off_domain",
    "whole_set_filters",
]

Place = tuple[str, int]
"""Document and position of an example."""

Unit = Literal["passage", "question"]

Tables = Callable[[Callable[[pa.Table], pa.Table], list[str]], Iterator[pa.Table]]
"""Apply a function to tables with these columns of all rows, wherever they are, and return the results in any order."""

FILTER_COLUMNS = ("document", "position", "messages")

_PLACE = ["document", "position"]
_COLUMNS = {"passage": [*_PLACE, "passage", "messages", "fact"], "question": [*_PLACE, "messages", "fact"]}
_MIN_COSINE = 0.1
_DIGEST_BYTES = 16


class _DropChosen(Step[Mapping[str, object], Mapping[str, object]]):
    """Drops rows by their places."""

    reason: ClassVar[str]

    def __init__(self, chosen: Iterable[Place]) -> None:
        self.chosen = frozenset(chosen)

    def apply(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, object] | Dropped]:
        """See :meth:`Step.apply`; a row has (at least) ``FILTER_COLUMNS``."""
        for row in rows:
            if (row["document"], row["position"]) in self.chosen:
                yield Dropped(self.reason, sample=" ".join(turn["content"] for turn in row["messages"]))
            else:
                yield row


class DropNearDuplicates(_DropChosen):
    """Drops examples whose passage or question is nearly that of another example."""

    name = "near_duplicates"
    reason = "near duplicate"


class DropOffDomain(_DropChosen):
    """Drops examples whose passage is far from the domain."""

    name = "domain_relevance"
    reason = "far from the domain"


def whole_set_filters(
    quality: QualityControl, evaluation: EvaluationTexts, tables: Tables
) -> tuple[Step[Mapping[str, object], Mapping[str, object]], ...]:
    """Return the filters that a configuration asks for, ready to run on rows with (at least) ``FILTER_COLUMNS``."""
    validation = quality.validation
    steps: list[Step[Mapping[str, object], Mapping[str, object]]] = []
    if validation.duplicate_detection and validation.near_duplicate_threshold is not None:
        units: tuple[Unit, ...] = ("passage", "question")
        found = (find_near_duplicates(tables, unit, validation.near_duplicate_threshold) for unit in units)
        steps.append(DropNearDuplicates(set().union(*found)))
    if validation.domain_relevance:
        steps.append(DropOffDomain(find_off_domain(tables, validation.domain)))
    if quality.decontaminate:
        steps.append(Decontaminate(evaluation))
    return tuple(steps)


def _texts_of(table: pa.Table, unit: Unit) -> tuple[list[str], list[str], list[str]]:
    """Return for each row the name of its unit, the unit's text, and the text whose names and numbers tell it apart.

    A passage counts once for a document, and all phrasings of a question are one, as are all rows of a fact without a
    passage: an answer that was disliked and its correction. Questions are compared by their own
    words, and told apart by their answers too: "What does it cost?" has two answers that are both true somewhere. A
    conversation is compared by all that its user says, and as a whole in place of the passage that it does not have.
    """
    if unit == "passage":
        texts = passages_of(table)
        documents = table["document"].to_pylist()
        own = zip(documents, texts, table["passage"].to_pylist(), table["fact"].to_pylist(), strict=True)
        names = [text_digest([document, text]) if passage else fact for document, text, passage, fact in own]
        return names, texts, texts
    turns = table["messages"].to_pylist()
    whole = [" ".join(turn["content"] for turn in messages) for messages in turns]
    return table["fact"].to_pylist(), [_said_by_user(messages) for messages in turns], whole


def passages_of(table: pa.Table) -> list[str]:
    """Return the passage of each row; of one without a passage its whole conversation."""
    columns = zip(table["passage"].to_pylist(), table["messages"].to_pylist(), strict=True)
    return [passage or "\n".join(turn["content"] for turn in turns) for passage, turns in columns]


def _said_by_user(turns: Iterable[Mapping[str, object]]) -> str:
    return "\n".join(str(turn["content"]) for turn in turns if turn["role"] == "user")


def question_of(turns: Iterable[Mapping[str, object]]) -> str:
    """Return the last user turn of a conversation, empty if there is none."""
    return next((str(turn["content"]) for turn in reversed(list(turns)) if turn["role"] == "user"), "")


_PLACE_ORDER = [("document", "ascending"), ("position", "ascending")]


def find_near_duplicates(tables: Tables, unit: Unit, threshold: float) -> set[Place]:
    """Return the places of rows whose passage or question is nearly that of an earlier document or position.

    Texts whose names or numbers differ are different facts, however alike they are, and stay. About 200 bytes a row are
    held in this process, and the texts of candidates.
    """
    bands = Bands.for_threshold(threshold)
    signed = [table.cast(_signed(bands)) for table in tables(_Sign(unit, bands), _COLUMNS[unit])]
    if not any(table.num_rows for table in signed):
        return set()
    rows = pa.concat_tables(signed).sort_by([("name", "ascending"), *_PLACE_ORDER]).combine_chunks()
    del signed
    names = _fixed(rows["name"])
    # Of a question's phrasings the first one stands for it, whichever comes first.
    is_first = np.concatenate([[True], (names[1:] != names[:-1]).any(axis=1)])
    units = rows.filter(pa.array(is_first)).combine_chunks()
    ranks = np.empty(units.num_rows, dtype=np.int64)
    ranks[pc.sort_indices(units, sort_keys=_PLACE_ORDER).to_numpy()] = np.arange(units.num_rows)
    signatures = Signatures(units["digest"].to_pylist(), _fixed(units["bands"]).view("<u8"))
    texts, whole = _texts(tables, unit, units, signatures)
    dropped = resolve(
        signatures,
        ranks,
        texts.__getitem__,
        threshold=threshold,
        may_drop=lambda one, other: names_and_numbers(whole[one]) == names_and_numbers(whole[other]),
    )
    is_dropped = np.zeros(units.num_rows, dtype=bool)
    is_dropped[list(dropped)] = True
    return set(_places(rows.filter(pa.array(is_dropped[np.cumsum(is_first) - 1]))))


def _signed(bands: Bands) -> pa.Schema:
    """Return the columns of signed rows: unit and place, and digest and bands of the unit's text."""
    return pa.schema(
        [
            ("name", pa.binary(_DIGEST_BYTES)),
            ("document", pa.large_string()),
            ("position", pa.int32()),
            ("digest", pa.binary(_DIGEST_BYTES)),
            ("bands", pa.binary(8 * bands.count)),
        ]
    )


def _fixed(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """Return the bytes of a column of values of one length, a row for each."""
    width = column.type.byte_width
    values = column.combine_chunks()
    end = values.offset + len(values)
    return np.frombuffer(values.buffers()[1], dtype=np.uint8, count=end * width).reshape(end, width)[values.offset :]


def _places(table: pa.Table) -> Iterator[Place]:
    yield from zip(table["document"].to_pylist(), table["position"].to_pylist(), strict=True)


@dataclass(frozen=True)
class _Sign:
    """Turns a table of rows into one of their signatures; runs in Ray's tasks."""

    unit: Unit
    bands: Bands

    def __call__(self, table: pa.Table) -> pa.Table:
        names, texts, whole = _texts_of(table, self.unit)
        signatures = sign(texts, self.bands)
        facts = (" ".join(sorted(names_and_numbers(text))).encode("utf-8", "surrogatepass") for text in whole)
        pairs = zip(signatures.digests, facts, strict=True)
        columns = [
            [_digest(name.encode("utf-8", "surrogatepass")) for name in names],
            table["document"].to_pylist(),
            table["position"].to_pylist(),
            [_digest(digest + of_facts) for digest, of_facts in pairs],
            [row.astype("<u8").tobytes() for row in signatures.bands],
        ]
        return pa.table(columns, schema=_signed(self.bands))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _texts(
    tables: Tables, unit: Unit, units: pa.Table, signatures: Signatures
) -> tuple[dict[int, str], dict[int, str]]:
    """Return the two texts of `_texts_of` of each unit that has a candidate, by index."""
    wanted = sorted({int(index) for group in candidates(signatures.bands) for index in group})
    found: tuple[dict[int, str], dict[int, str]] = {}, {}
    if not wanted:
        return found
    first = dict(zip(_places(units.select(_PLACE).take(wanted)), wanted, strict=True))
    for table in tables(_same, _COLUMNS[unit]):
        _, texts, whole = _texts_of(table, unit)
        for place, text, whole_text in zip(_places(table), texts, whole, strict=True):
            if place in first:
                found[0][first[place]], found[1][first[place]] = text, whole_text
    return found


def _same(table: pa.Table) -> pa.Table:
    return table


def find_off_domain(tables: Tables, domain: str | None) -> set[Place]:
    """Return the places of rows whose passage is far from the domain: cosine below 0.1.

    Args:
        domain: text that describes it; None: the mean of all passages.
    """
    center = embed([domain])[0].astype(float) if domain else _center(tables)
    far: set[Place] = set()
    for table in tables(_same, _COLUMNS["passage"]):
        cosines = embed(passages_of(table)).astype(float) @ center
        far.update(
            place for place, cosine in zip(_places(table), cosines.tolist(), strict=True) if cosine < _MIN_COSINE
        )
    return far


def _center(tables: Tables) -> NDArray[np.float64]:
    """Return the unit vector of the mean of all passages, in an order of adding that no partition changes."""
    total = np.zeros(256)
    for table in tables(_same, _COLUMNS["passage"]):
        vectors = embed(passages_of(table)).astype(float)
        total += np.round(vectors * 2**20).sum(axis=0)  # sums of whole numbers don't depend on their order
    length = np.linalg.norm(total)
    return total / length if length else total
