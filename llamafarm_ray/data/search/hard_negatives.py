"""Hard negatives by BM25: passages that look like the right one, and answers to other questions."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from llamafarm_ray.data.search.retrieval import PassageIndex
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.data.text import normal_form
from llamafarm_ray.text.refusals import is_not_said
from llamafarm_ray.text.support import support

__all__ = ["NUM_NEGATIVES", "mine"]

NUM_NEGATIVES = 3
_CANDIDATES = 20
_SUPPORTS = 0.7
"""A text that supports this share of an answer may be right too, and is no negative."""

Rows = Iterator[Mapping[str, Any]]


def mine(
    rows: Rows,
    kind: str,
    side_of: Callable[[str], str],
    texts: Callable[[], Iterable[Mapping[str, Any]]],
    ledger: Ledger,
) -> Rows:
    """Yield rows of questions as matches or preferences; rows of other kinds as they are.

    A negative comes from the same split as its row, so that no training row shows a text that is held out.

    Args:
        rows: rows with ``id``, ``messages``, ``document``, ``passage`` and ``extra``.
        kind: of the rows to write.
        side_of: returns the split of a row by its id.
        texts: returns all rows again, with the first four of these columns.
        ledger: takes the counts.
    """
    if kind == "match":
        yield from _matches(rows, side_of, texts(), ledger)
    elif kind == "preference":
        yield from _preferences(rows, side_of, texts(), ledger)
    else:
        yield from rows


def _matches(rows: Rows, side_of: Callable[[str], str], texts: Iterable[Mapping[str, Any]], ledger: Ledger) -> Rows:
    found: dict[str, dict[str, None]] = {"train": {}, "validation": {}}
    for row in texts:
        found[side_of(row["id"])].setdefault(row["passage"])
    pools = {side: _Pool(list(passages)) for side, passages in found.items()}
    counts, seen = ledger.counts("hard_negatives"), set[tuple[str, str]]()
    for row in rows:
        question, answer = _asked(row)
        counts.rows_in += 1
        pair = (normal_form(question), row["passage"])
        if is_not_said(answer):
            counts.dropped["no passage answers the question"] += 1
            continue
        if pair in seen:
            counts.dropped["repeated"] += 1
            continue
        seen.add(pair)
        pool = pools[side_of(row["id"])]
        negatives = pool.others(question, functools.partial(_answers, passage=row["passage"], answer=answer))
        counts.rows_out += 1
        if not negatives:
            counts.noted["without a negative"] += 1
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": row["passage"]}]
        yield {**row, "messages": turns, "extra": json.dumps({"negatives": negatives})}


def _answers(text: str, passage: str, answer: str) -> bool:
    return normal_form(text) == normal_form(passage) or support(answer, text) >= _SUPPORTS


def _preferences(rows: Rows, side_of: Callable[[str], str], texts: Iterable[Mapping[str, Any]], ledger: Ledger) -> Rows:
    found: dict[tuple[str, str], dict[str, None]] = {}
    for row in texts:
        answer = _asked(row)[1]
        if not is_not_said(answer):
            found.setdefault((side_of(row["id"]), row["document"]), {}).setdefault(answer)
    pools: dict[tuple[str, str], _Pool] = {}
    counts = ledger.counts("rejected_answers")
    for row in rows:
        counts.rows_in += 1
        completed = row
        if not row["extra"]:
            question, answer = _asked(row)
            place = (side_of(row["id"]), row["document"])
            if place not in pools:
                pools[place] = _Pool(list(found.get(place, ())))
            others = pools[place].others(question, functools.partial(_agree, other=answer))
            if is_not_said(answer) or not others:
                counts.dropped["no other answer of its document to reject"] += 1
                continue
            completed = {**row, "extra": json.dumps({"rejected": others[0]})}
        counts.rows_out += 1
        yield completed


def _agree(one: str, other: str) -> bool:
    """Return True if one of two answers supports the other."""
    return support(one, other) >= _SUPPORTS or support(other, one) >= _SUPPORTS


def _asked(row: Mapping[str, Any]) -> tuple[str, str]:
    turns: Sequence[Mapping[str, Any]] = row["messages"]
    return str(turns[-2]["content"]), str(turns[-1]["content"])


class _Pool:
    """Texts to choose negatives from."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        self._index = PassageIndex(texts)

    def others(self, question: str, is_right: Callable[[str], bool]) -> list[str]:
        """Return up to three texts that fit a question and are not right; the best first."""
        found = (self._texts[at] for at, _ in self._index.search(question, _CANDIDATES))
        return [text for text in found if not is_right(text)][:NUM_NEGATIVES]
