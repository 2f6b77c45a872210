"""Parents of new examples, and the examples as rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Example, Message, Provenance
from llamafarm_ray.types import Digest

__all__ = ["child_row", "is_plain", "passage_of", "question_and_answer"]

Row = Mapping[str, Any]


def is_plain(row: Row) -> bool:
    """Return True for a row without tools and marks, whose turns are all that it has."""
    return not row["extra"]


def question_and_answer(row: Row) -> tuple[str, str]:
    """Return the last question of a row and its answer."""
    turns: Sequence[Mapping[str, object]] = row["messages"]
    return str(turns[-2]["content"]) if len(turns) > 1 else "", str(turns[-1]["content"])


def passage_of(row: Row, index: int = 0) -> Passage:
    """Return the passage of a row; its title and headings are not known any more."""
    return Passage(row["document"], Digest(row["document_digest"]), "", (), row["passage"], index, 1)


def child_row(
    parent: Row, turns: Sequence[Mapping[str, Any]], provenance: Provenance, method: str
) -> dict[str, object]:
    """Return a row of ``EXAMPLE_SCHEMA`` that was made from another one.

    Args:
        parent: the row that it was made from.
        method: ``synthetic``, or of an augmentation.
    """
    kind = json.loads(parent["provenance"]).get("kind", "") if parent["provenance"] else ""
    example = Example(
        tuple(Message(turn["role"], turn["content"]) for turn in turns),
        parent["document"],
        parent["document_digest"],
        parent["passage"],
        parent["fact"],
        provenance=replace(provenance, kind=provenance.kind or kind, method=method, parent=parent["id"]),
    )
    return example.build_row(0, pii=parent["pii"] or ())
