"""Rows that ask with passages in the prompt, as requests with retrieval do.

A model that only learned questions and answers by heart reads worse than its base. So the training split asks each
fact both ways: by heart in every pass, and in every eighth one also with excerpts of the passages that retrieval
brings. Several questions share a row, one after another, because the excerpts are most of its length: the first one
has retrieved them, and the others are answered by another sentence of them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llamafarm_ray.data.augmentation.by_heart import joined_row, reworded
from llamafarm_ray.data.rows import Message
from llamafarm_ray.data.search.excerpts import NUM_SENTENCES, SentenceIndex, excerpts
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.data.text.near_words import NearWords

__all__ = [
    "INSTRUCTIONS",
    "QUESTIONS_PER_ROW",
    "ReadingQuestion",
    "ask_with_passages",
    "ask_with_texts",
    "conversations",
    "rows_with_passages",
]

QUESTIONS_PER_ROW = 4
_PASSES_BY_HEART = 8  # for one pass with passages; practice teaches to read
_SENTENCES = 4  # of a row's excerpts: a model that learned to choose among four chooses better between two
INSTRUCTIONS = (
    "Answer the question with the help of these passages.",
    "Use the passages to answer the question.",
    "Answer from the passages below.",
)


def ask_with_passages(
    question: str,
    passages: Sequence[str],
    num_sentences: int | None = NUM_SENTENCES,
    likelihoods: Sequence[float] | None = None,
) -> str:
    """Return the prompt that asks a question with excerpts of passages, as rows with passages ask.

    Args:
        passages: the passages that a retriever found; the first of several lines is the title and headings.
        num_sentences: most sentences to show; None shows the passages whole.
        likelihoods: see `SentenceIndex.nearest`.
    """
    if num_sentences is None:
        return ask_with_texts(question, passages)
    return ask_with_texts(question, excerpts(question, passages, num_sentences, likelihoods))


def ask_with_texts(question: str, texts: Sequence[str], instruction: str = INSTRUCTIONS[0]) -> str:
    """Return the prompt that asks a question with whole texts.

    Args:
        texts: what the model may read.
        instruction: the first line.
    """
    return "\n\n".join([instruction, *texts, f"Question: {question}"])


@dataclass(frozen=True, slots=True)
class ReadingQuestion:
    """A question to answer from excerpts.

    Args:
        sentence: place of the sentence that supports it in the index.
        row: the row of the dataset that it comes from; None for practice.
    """

    question: str
    answer: str
    sentence: int
    row: Mapping[str, Any] | None = None


def conversations(
    index: SentenceIndex, asked: Iterable[ReadingQuestion], rng: random.Random
) -> Iterator[tuple[list[ReadingQuestion], list[Message]]]:
    """Yield conversations of one to four questions about the same excerpts, each question in one of them.

    The excerpts are those that the first question retrieves. If the sentence that supports its answer is not among
    them, it takes the place of the worst.

    Args:
        index: the sentences to retrieve from.
        asked: the questions, in the order in which they come first.
        rng: chooses instructions.
    """
    questions = list(asked)
    by_sentence: dict[int, list[int]] = {}
    for at, each in enumerate(questions):
        by_sentence.setdefault(each.sentence, []).append(at)
    used: set[int] = set()
    for at, first in enumerate(questions):
        if at in used:
            continue
        places = index.nearest(first.question, _SENTENCES)
        if first.sentence not in places:
            places[-1] = first.sentence
        answered = sorted(other for place in places for other in by_sentence.get(place, ()) if other not in used)
        chosen = [at, *[other for other in answered if other != at][: QUESTIONS_PER_ROW - 1]]
        used.update(chosen)
        prompt = ask_with_texts(first.question, index.shown(places), rng.choice(INSTRUCTIONS))
        turns = []
        for other in chosen:
            turns.append(Message("user", prompt if other == at else questions[other].question))
            turns.append(Message("assistant", questions[other].answer))
        yield [questions[other] for other in chosen], turns


def rows_with_passages(
    rows: Iterable[Mapping[str, Any]], *, seed: int = 0, passes: int = 1, near_words: NearWords | None = None
) -> Iterator[dict[str, object]]:
    """Yield rows that ask with excerpts of passages, each fact in every eighth pass.

    The excerpts come from passages of the same document, so that no text of another one gets into a row.

    Args:
        rows: rows of questions and answers with the columns of ``ROW_SCHEMA`` and ``fact``, those of a document
            together and in its order. The first pass uses the first wording of a fact, the next one the second. A
            pass that has no wording left asks an earlier one with some words replaced.
        seed: decides which facts share a row.
        near_words: words of like meaning; None keeps the words.
    """
    for document, group in itertools.groupby(rows, key=lambda row: row["document"]):
        facts: dict[str, list[Mapping[str, Any]]] = {}
        for row in group:
            facts.setdefault(f"{row['passage']}\n{row['fact']}", []).append(row)
        passages = list(dict.fromkeys(wordings[0]["passage"] for wordings in facts.values()))
        index = SentenceIndex(passages)
        place = {passage: at for at, passage in enumerate(passages)}
        seen: set[str] = set()
        for number in range(math.ceil(passes / _PASSES_BY_HEART)):
            rng = random.Random(f"{seed} {number} {text_digest([document or '', *passages])}")
            asked = []
            for wordings in facts.values():
                row, question = _wording(wordings, number, near_words, rng)
                answer = row["messages"][-1]["content"]
                sentence = index.supporting(answer, place[row["passage"]])
                asked.append(ReadingQuestion(question, answer, sentence, row))
            rng.shuffle(asked)
            for questions, turns in conversations(index, asked, rng):
                row = joined_row([each.row for each in questions if each.row is not None], turns, ())
                if row["id"] not in seen:
                    seen.add(row["id"])
                    yield row


def _wording(
    wordings: Sequence[Mapping[str, Any]], number: int, near_words: NearWords | None, rng: random.Random
) -> tuple[Mapping[str, Any], str]:
    """Return a row of a fact and its question in this pass."""
    row = wordings[number % len(wordings)]
    question = row["messages"][-2]["content"]
    return row, question if number < len(wordings) else reworded(question, near_words, rng)
