"""Invented examples: new questions about the passages of the training split, or like the existing examples."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llamafarm_ray.data.expansion.asking import ModelExpander
from llamafarm_ray.data.expansion.diversity import Diversity
from llamafarm_ray.data.expansion.parents import Row, child_row, is_plain, passage_of
from llamafarm_ray.data.expansion.templates import invented
from llamafarm_ray.data.generation import EnginePlan
from llamafarm_ray.data.generation.stage import batches_of, write_pairs
from llamafarm_ray.data.quality.new_rows import FaultOf
from llamafarm_ray.data.rows import Provenance
from llamafarm_ray.data.steps import MIN_SUPPORT, Ledger
from llamafarm_ray.data.text import normal_form
from llamafarm_ray.text.pii.find import redacted
from llamafarm_ray.text.refusals import is_not_said
from llamafarm_ray.text.support import support
from llamafarm_ray.types import DeviceUse

__all__ = ["Candidate", "Synthesizer", "by_base_model", "by_model", "by_templates"]

_STEP = "synthetic_generation"
_ROWS_WITHOUT_PASSAGE = 5
"""Rows without a passage that are shown together, as examples for new ones."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A new conversation.

    Args:
        parent: the row that it was made from.
    """

    parent: Row
    turns: list[dict[str, Any]]
    provenance: Provenance


Inventor = Callable[[Sequence[Sequence[Row]], int, Ledger], Iterator[list[Candidate]]]
"""Yields the new conversations of each group of rows, in order."""


@dataclass(frozen=True)
class Synthesizer:
    """Invents examples and checks them.

    Args:
        count: most new examples of a group.
    """

    inventor: Inventor
    count: int

    def rows(
        self, rows: Sequence[Row], known: Diversity, ledger: Ledger, fault_of: FaultOf
    ) -> Iterator[dict[str, Any]]:
        """Yield the new examples of rows; count dropped ones with the reason.

        Args:
            rows: rows of the training split, those of a document together.
            known: the questions of all examples, with the threshold of diversity.
            ledger: takes the counts.
            fault_of: returns the reason why a new row can't be used.
        """
        counts = ledger.counts(_STEP)
        for candidates in self.inventor(_groups(rows), self.count, ledger):
            taken = 0
            for candidate in candidates:
                counts.rows_in += 1
                question, answer = (candidate.turns[at]["content"] for at in (-2, -1))
                reason = "above examples_per_passage" if taken == self.count else _unusable(candidate, question, answer)
                row = child_row(candidate.parent, candidate.turns, candidate.provenance, "synthetic")
                reason = reason or fault_of(row) or known.refused([question])[0]
                if reason:
                    counts.dropped[reason] += 1
                    counts.add_sample(reason, redacted(f"{question} {answer}"))
                    continue
                taken += 1
                counts.rows_out += 1
                if not candidate.parent["passage"]:
                    counts.noted["no passage to check the answer against"] += 1
                yield row


def _groups(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """Return rows of one passage together; of those without a passage a few."""
    groups: list[Sequence[Row]] = []
    plain = (row for row in rows if is_plain(row) and not is_not_said(row["messages"][-1]["content"]))
    for _, of_document in itertools.groupby(plain, key=lambda row: row["document"]):
        by_passage: dict[str, list[Row]] = {}
        for row in of_document:
            by_passage.setdefault(row["passage"], []).append(row)
        for passage, found in by_passage.items():
            size = len(found) if passage else _ROWS_WITHOUT_PASSAGE
            groups += [found[start : start + size] for start in range(0, len(found), size)]
    return groups


def _unusable(candidate: Candidate, question: str, answer: str) -> str:
    """Return the reason to drop a new pair; "" for none."""
    if not normal_form(question) or not normal_form(answer):
        return "a turn is empty"
    if normal_form(question) == normal_form(answer):
        return "the answer repeats the question"
    passage = candidate.parent["passage"]
    if passage and support(answer, passage, question) < MIN_SUPPORT:
        return "the passage does not support the answer"
    return ""


def by_templates(groups: Sequence[Sequence[Row]], _: int, __: Ledger) -> Iterator[list[Candidate]]:
    """Invent by templates."""
    for rows in groups:
        yield [Candidate(row, turns, Provenance("rules")) for row, turns in invented(rows)]


def by_model(expander: ModelExpander) -> Inventor:
    """Return an engine that asks a model."""

    def invent(groups: Sequence[Sequence[Row]], count: int, ledger: Ledger) -> Iterator[list[Candidate]]:
        for rows, found in zip(groups, expander.invent(groups, count), strict=True):
            if isinstance(found, str):
                ledger.counts(_STEP).dropped[found] += 1
            pairs = () if isinstance(found, str) else found
            yield [Candidate(rows[0], _pair(*pair), expander.provenance) for pair in pairs]

    return invent


def by_base_model(plan: EnginePlan, on_use: Callable[[DeviceUse], None]) -> Inventor:
    """Return an engine that lets a base model write about the passages once more, with other draws.

    Args:
        on_use: called with the use of devices.
    """

    def invent(groups: Sequence[Sequence[Row]], _: int, ledger: Ledger) -> Iterator[list[Candidate]]:
        with_passage = [rows for rows in groups if rows[0]["passage"]]
        ledger.counts(_STEP).dropped["no passage to write about"] += len(groups) - len(with_passage)
        passages = [passage_of(rows[0], index) for index, rows in enumerate(with_passage)]
        batches = write_pairs(plan, batches_of(passages, plan.passages_per_batch), on_use)
        for rows, written in zip(with_passage, itertools.chain.from_iterable(batches), strict=True):
            yield [
                Candidate(rows[0], _pair(example.question, example.answer), example.provenance or Provenance(plan.name))
                for example in written.examples
            ]

    return invent


def _pair(question: str, answer: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
