"""Rows that ask for the facts of a passage by heart, two in each row, in several passes.

A small model writes few questions, often odd ones, and facts that are learned from them alone are recalled only for
similar questions. So each fact is also asked for as people search, by some of its words ("library card ticket"), in
each pass by others, of which half are words of like meaning ("library ID entry"). Two facts of a passage share a row,
because the system prompt that chat templates add is half of a short row; no more, because few examples are learned
better in many small steps than in few large ones.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llamafarm_ray.data.augmentation.keyword_prompts import QUESTION_WORDS, keyword_prompt
from llamafarm_ray.data.rows import ROW_SCHEMA, Message
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.data.text.near_words import NearWords

__all__ = ["PASSES", "QUESTIONS_PER_ROW", "joined_row", "reworded", "rows_by_heart"]

QUESTIONS_PER_ROW = 2
PASSES = 8
"""Passes of a dataset whose questions the base model wrote. A model that sees each row once, in passes with other
words, learns as much as in several epochs, and recalls it for more wordings. After four passes with 150 rows of
practice, which were half of the tokens, a 135M model knew a third of its own training questions, and answered 7 of 40
questions by heart; after six with 50 rows 10, and after eight with 30 rows, as many tokens, 19. With the sentence that
fits best it answered 33, 33 and 32."""


def rows_by_heart(
    rows: Iterable[Mapping[str, Any]], *, seed: int, passes: int = 1, near_words: NearWords | None = None
) -> Iterator[dict[str, object]]:
    """Yield rows of one or two questions about different facts of one passage.

    Each wording of a fact is asked in one pass, and in each pass a prompt of the fact's words. A pass that has no
    wording left asks an earlier one with some words replaced.

    Args:
        rows: rows of questions and answers with the columns of ``ROW_SCHEMA``, ``covers`` and ``fact``, those of a
            document together and in its order.
        seed: decides the keywords and which facts share a row.
        near_words: words of like meaning; None keeps the words of the document.
    """
    for _, group in itertools.groupby(rows, key=lambda row: row["document"]):
        by_passage: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
        for row in group:
            by_passage.setdefault(row["passage"], {}).setdefault(row["fact"], []).append(row)
        for passage, facts in by_passage.items():
            seen: set[object] = set()
            for number in range(passes):
                rng = random.Random(f"{seed} {number} {text_digest([passage])}")
                prompts = [_prompts(asked, number, passes, near_words, rng) for asked in facts.values()]
                for row in _rows_of_passage(prompts, rng):
                    if row["id"] not in seen:
                        seen.add(row["id"])
                        yield row


def reworded(question: str, near_words: NearWords | None, rng: random.Random) -> str:
    """Return a question with some of its words replaced by words of like meaning, but not its question words."""
    if near_words is None:
        return question
    from bm25s.stopwords import STOPWORDS_EN  # imports numba

    return near_words.replace_some(question, QUESTION_WORDS.union(STOPWORDS_EN), rng)


def joined_row(rows: Sequence[Mapping[str, Any]], turns: Sequence[Message], covers: Iterable[int]) -> dict[str, Any]:
    """Return one row with the turns of several about the same passage.

    Args:
        rows: the rows; the new one comes from where the first does.
        covers: places of the facts that it answers.
    """
    made = {
        "id": text_digest(part for turn in turns for part in turn.parts),
        "messages": [turn.to_turn() for turn in turns],
        "passage": rows[0]["passage"],
        "covers": sorted(set(covers)),
    }
    return {**{name: rows[0].get(name) for name in ROW_SCHEMA.names}, **made}


_Prompt = tuple[Mapping[str, Any], str]


def _prompts(
    asked: Sequence[Mapping[str, Any]], number: int, passes: int, near_words: NearWords | None, rng: random.Random
) -> list[_Prompt]:
    """Return the prompts of a fact in one pass, each with the row that it comes from, in random order.

    Args:
        asked: the rows of the fact, one for each wording.
        near_words: words of like meaning.
        rng: decides the words.
    """
    prompts = [(row, row["messages"][-2]["content"]) for row in asked[number::passes]]
    if not prompts:
        row = asked[number % len(asked)]
        prompts = [(row, reworded(row["messages"][-2]["content"], near_words, rng))]
    keywords = keyword_prompt(asked[0]["messages"][-1]["content"], near_words, rng)
    if keywords is not None:
        prompts.append((asked[0], keywords))
    rng.shuffle(prompts)
    return prompts


def _rows_of_passage(left: Sequence[list[_Prompt]], rng: random.Random) -> Iterator[dict[str, object]]:
    """Yield rows until each prompt of each fact was used once; the facts with most prompts left come first."""
    while any(left):
        most = sorted(filter(None, left), key=lambda prompts: (-len(prompts), rng.random()))[:QUESTIONS_PER_ROW]
        rng.shuffle(most)
        chosen = [prompts.pop() for prompts in most]
        turns = [
            message
            for row, prompt in chosen
            for message in (Message("user", prompt), Message("assistant", row["messages"][-1]["content"]))
        ]
        yield joined_row([row for row, _ in chosen], turns, (place for row, _ in chosen for place in row["covers"]))
