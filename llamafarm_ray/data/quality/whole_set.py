"""Filters that need the whole dataset: near duplicates, distance from the domain, overlap with evaluation sets.

They choose rows, told by document and position, from streams of all rows; a stream can be asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

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


class _DropChosen(Step[Mapping[str, Any], Mapping[str, Any]]):
    """Drops rows by their places.

    Args:
        chosen: the places.
    """

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
) -> tuple[Step[Mapping[str, Any], Mapping[str, Any]], ...]:
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


@dataclass
class _Units:
    """Units in the order of their first rows.

    Args:
        index: index by name.
        firsts: the smallest place of each.
        places: all places of each.
    """

    index: dict[str, int]
    firsts: list[Place]
    places: list[list[Place]]


def find_near_duplicates(tables: Tables, unit: Unit, threshold: float) -> set[Place]:
    """Return the places of rows whose passage or question is nearly that of an earlier document or position.

    Texts whose names or numbers differ are different facts, however alike they are, and stay.
    """
    bands = Bands.for_threshold(threshold)
    units = _Units({}, [], [])
    digests: list[bytes] = []
    signed: list[np.ndarray[Any, np.dtype[np.uint64]]] = []
    for table in tables(_Sign(unit, bands), _COLUMNS[unit]):
        for name, document, position, digest, band in zip(
            *(table[column].to_pylist() for column in _SIGNED), strict=True
        ):
            place = (document, position)
            at = units.index.setdefault(name, len(units.index))
            if at == len(units.firsts):
                units.firsts.append(place)
                units.places.append([place])
                digests.append(digest)
                signed.append(np.frombuffer(band, dtype=np.uint64))
            else:
                units.places[at].append(place)
                if place < units.firsts[at]:
                    # Of a question's phrasings the first one stands for it, whichever comes first.
                    units.firsts[at], digests[at], signed[at] = place, digest, np.frombuffer(band, dtype=np.uint64)
    if not digests:
        return set()
    order = sorted(range(len(digests)), key=units.firsts.__getitem__)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    signatures = Signatures(digests, np.stack(signed))
    texts, whole = _texts(tables, unit, units, signatures)
    dropped = resolve(
        signatures,
        ranks,
        texts.__getitem__,
        threshold=threshold,
        may_drop=lambda one, other: names_and_numbers(whole[one]) == names_and_numbers(whole[other]),
    )
    return {place for index in dropped for place in units.places[index]}


_SIGNED = ("name", "document", "position", "digest", "bands")


@dataclass(frozen=True)
class _Sign:
    """Turns a table of rows into one of their signatures; runs in Ray's tasks."""

    unit: Unit
    bands: Bands

    def __call__(self, table: pa.Table) -> pa.Table:
        names, texts, whole = _texts_of(table, self.unit)
        signatures = sign(texts, self.bands)
        facts = (" ".join(sorted(names_and_numbers(text))).encode("utf-8", "surrogatepass") for text in whole)
        digests = [digest + of_facts for digest, of_facts in zip(signatures.digests, facts, strict=True)]
        bands = [row.tobytes() for row in np.ascontiguousarray(signatures.bands)]
        columns = [pa.array(names), table["document"], table["position"]]
        return pa.table([*columns, pa.array(digests, pa.binary()), pa.array(bands, pa.binary())], _SIGNED)


def _texts(tables: Tables, unit: Unit, units: _Units, signatures: Signatures) -> tuple[dict[int, str], dict[int, str]]:
    """Return the two texts of `_texts_of` of each unit that has a candidate, by index."""
    wanted = {int(index) for group in candidates(signatures.bands) for index in group}
    first = {units.firsts[index]: index for index in wanted}
    found: tuple[dict[int, str], dict[int, str]] = {}, {}
    if not wanted:
        return found
    for table in tables(_same, _COLUMNS[unit]):
        places = zip(table["document"].to_pylist(), table["position"].to_pylist(), strict=True)
        _, texts, whole = _texts_of(table, unit)
        for place, text, whole_text in zip(places, texts, whole, strict=True):
            if place in first:
                found[0][first[place]], found[1][first[place]] = text, whole_text
    return found


def _same(table: pa.Table) -> pa.Table:
    return table


def find_off_domain(tables: Tables, domain: str | None) -> set[Place]:
    """Return the places of rows whose passage is far from the domain: cosine below 0.1.

    Args:
        tables: all rows.
        domain: text that describes it; None: the mean of all passages.
    """
    center = embed([domain])[0].astype(float) if domain else _center(tables)
    far: set[Place] = set()
    for table in tables(_same, _COLUMNS["passage"]):
        cosines = embed(passages_of(table)).astype(float) @ center
        places = zip(table["document"].to_pylist(), table["position"].to_pylist(), strict=True)
        far.update(place for place, cosine in zip(places, cosines.tolist(), strict=True) if cosine < _MIN_COSINE)
    return far


def _center(tables: Tables) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the unit vector of the mean of all passages, in an order of adding that no partition changes."""
    total = np.zeros(256)
    for table in tables(_same, _COLUMNS["passage"]):
        vectors = embed(passages_of(table)).astype(float)
        total += np.round(vectors * 2**20).sum(axis=0)  # sums of whole numbers don't depend on their order
    length = np.linalg.norm(total)
    return total / length if length else total
