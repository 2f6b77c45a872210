"""Limit the questions of a document and the ways each is put: the best first, spread over passages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from llamafarm_ray.data.rows import Example
from llamafarm_ray.data.steps.base import Dropped, Step

__all__ = ["LimitQuestions"]


class LimitQuestions(Step[Example, Example]):
    """Keeps the questions about ``questions_per_doc`` facts of a document, each in up to ``phrasings`` ways.

    None keeps all facts, or all ways. Rows keep their order.
    """

    name = "limit"

    def __init__(self, questions_per_doc: int | None, phrasings: int | None = 1) -> None:
        self.questions_per_doc = questions_per_doc
        self.phrasings = phrasings

    def apply(self, rows: Iterable[Example]) -> Iterator[Example | Dropped]:
        """See :meth:`Step.apply`; ``rows`` are those of one document, the better of a passage first."""
        distinct: dict[str, Example] = {}
        for row in rows:
            if row.key in distinct:
                yield Dropped("repeated in its document", sample=f"{row.question} {row.answer}")
            else:
                distinct[row.key] = row
        chosen = self._choose(list(distinct.values()))
        asked: Counter[str] = Counter()
        for row in distinct.values():
            fact = row.fact or row.key
            if fact not in chosen:
                yield Dropped("above questions_per_doc", sample=f"{row.question} {row.answer}")
            elif asked[fact] == self.phrasings:
                yield Dropped("above phrasings", sample=f"{row.question} {row.answer}")
            else:
                asked[fact] += 1
                yield row

    def _choose(self, rows: list[Example]) -> set[str]:
        """The first facts by (rank, earlier facts of the passage, place)."""
        facts: dict[str, Example] = {}
        for row in rows:
            facts.setdefault(row.fact or row.key, row)
        turns: Counter[tuple[int, int]] = Counter()
        ranked = []
        for place, (fact, row) in enumerate(facts.items()):
            ranked.append((row.rank, turns[row.rank, row.passage_index], place, fact))
            turns[row.rank, row.passage_index] += 1
        return {fact for *_, fact in sorted(ranked)[: self.questions_per_doc]}
