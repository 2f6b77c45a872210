"""An exam: each question as the prompts of its modes, with its retrieved passages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from llamafarm_ray.errors import InputError, did_you_mean
from llamafarm_ray.evaluation.metrics.answers import holds, word_strings
from llamafarm_ray.evaluation.rag.questions import Question

__all__ = [
    "CLOSED_BOOK",
    "GOLD",
    "MODES",
    "RETRIEVED",
    "AskedQuestion",
    "CorpusPassage",
    "MakePrompt",
    "Retrieval",
    "RetrievalFailure",
    "make_exam",
]

CLOSED_BOOK, RETRIEVED, GOLD = "closed_book", "retrieved", "gold"
MODES = (CLOSED_BOOK, RETRIEVED, GOLD)
"""Ways to ask: the question alone, with the passages of a retriever, with those that have the answer."""

Search = Callable[[str, int], Sequence[tuple[int, float]]]
"""Returns places of the best passages for a question with their scores, the best first."""
MakePrompt = Callable[[str, Sequence[str]], str]
"""Returns the prompt that asks a question with passages."""


@dataclass(frozen=True, slots=True)
class CorpusPassage:
    """A passage of a corpus."""

    document: str
    text: str


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Passages that a retriever found for a question.

    Args:
        passages: the passages, the best first.
        seconds: time that it took.
    """

    passages: tuple[CorpusPassage, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class RetrievalFailure:
    """A question that a retriever gave no answer to.

    Args:
        reason: the reason, in words that failures are counted by.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question as it is asked.

    Args:
        document: path of the document that has the answer, as the corpus has it; None if it is not named.
        passages: the passages of each mode; gold is missing where they are not known.
        relevant: for each retrieved passage, True if it answers the question; None without a corpus.
        prompts: the prompt of each mode.
        retrieval_s: time that the retriever took.
        failure: the reason why nothing was retrieved; empty if the retriever answered, or was not asked.
        num_relevant: relevant passages that the best retriever would have found; None where it is not known, because
            the retriever's passages are not the corpus's.
    """

    question: Question
    document: str | None
    passages: Mapping[str, tuple[CorpusPassage, ...]]
    relevant: tuple[bool, ...] | None
    prompts: Mapping[str, str]
    retrieval_s: float = 0.0
    failure: str = ""
    num_relevant: int | None = None


def make_exam(
    questions: Sequence[Question],
    corpus: Sequence[CorpusPassage],
    *,
    search: Search,
    make_prompt: Mapping[str, MakePrompt],
    k: int,
    found: Sequence[Retrieval | RetrievalFailure] | None = None,
) -> list[AskedQuestion]:
    """Search the corpus for each question, and write its prompts.

    A passage is relevant if the question gives it as context. Else, if it holds an accepted answer and belongs to the
    question's document, where one is named; any passage of that document is, if none of them holds an accepted
    answer. The gold passages are those that the question gives, else the relevant passage of its document that the
    retriever ranks first.

    Args:
        corpus: all passages; empty: nothing is retrieved.
        search: the retriever; it ranks gold passages in any case.
        make_prompt: for each mode with passages, a function that writes the prompt.
        k: number of passages to retrieve.
        found: answers of another retriever to the questions, in their order. Its passages may be cut in other ways
            than the corpus's: one is relevant if it holds the question's context or is part of it, or if it holds an
            accepted answer and does not belong to another document. A question whose retrieval failed is not asked in
            this mode. None: ``search`` retrieves.

    Raises:
        InputError: a question names a document that is not in the corpus.
    """
    by_document: dict[str, list[int]] = {}
    for at, passage in enumerate(corpus):
        by_document.setdefault(passage.document, []).append(at)
    words = [word_strings(passage.text) for passage in corpus]
    texts = frozenset(passage.text for passage in corpus)
    examiner = _Examiner(corpus, words, texts, by_document, search, make_prompt, k)
    given = found if found is not None else [None] * len(questions)
    return [examiner.ask(question, one) for question, one in zip(questions, given, strict=True)]


@dataclass(frozen=True, slots=True)
class _Examiner:
    corpus: Sequence[CorpusPassage]
    words: Sequence[tuple[str, str]]
    texts: frozenset[str]
    by_document: Mapping[str, list[int]]
    search: Search
    make_prompt: Mapping[str, MakePrompt]
    k: int

    def ask(self, question: Question, found: Retrieval | RetrievalFailure | None) -> AskedQuestion:
        passages: dict[str, tuple[CorpusPassage, ...]] = {CLOSED_BOOK: ()}
        document, relevant, took = question.document, None, 0.0
        gold = tuple(CorpusPassage(question.document or "", text) for text in question.context)
        answering: frozenset[int] = frozenset()
        if self.corpus:
            document = _known_document(question, self.by_document)
            answering = self.answering(question, document)
        if isinstance(found, Retrieval):
            passages[RETRIEVED], took = found.passages, found.seconds
            relevant = tuple(self.is_relevant(passage, question, document, answering) for passage in found.passages)
        elif found is None and self.corpus:
            began = time.perf_counter()
            places = [at for at, _ in self.search(question.question, self.k)]
            took = time.perf_counter() - began
            passages[RETRIEVED] = tuple(self.corpus[at] for at in places)
            relevant = tuple(at in answering for at in places)
        if not gold and self.corpus and document is not None:
            ranked = (at for at, _ in self.search(question.question, len(self.corpus)) if at in answering)
            gold = tuple(self.corpus[at] for at in [next(ranked, None)] if at is not None)
        if gold:
            passages[GOLD] = gold
        prompts = {
            mode: self.make_prompt[mode](question.question, [one.text for one in chosen])
            if chosen
            else question.question
            for mode, chosen in passages.items()
        }
        failure = found.reason if isinstance(found, RetrievalFailure) else ""
        num_answering = max(len(answering), sum(relevant or ()))
        num_relevant = min(self.k, num_answering) if self.are_of_corpus(passages.get(RETRIEVED, ())) else None
        return AskedQuestion(question, document, passages, relevant, prompts, took, failure, num_relevant)

    def are_of_corpus(self, found: Sequence[CorpusPassage]) -> bool:
        """Return True if all passages are the corpus's, so that its relevant ones could have been found."""
        return bool(self.corpus) and self.texts.issuperset(passage.text for passage in found)

    def is_relevant(
        self, passage: CorpusPassage, question: Question, document: str | None, answering: frozenset[int]
    ) -> bool:
        """Return True for a passage of another retriever that answers a question, as ``answering`` of the corpus do."""
        text = " ".join(passage.text.split())
        contexts = [" ".join(one.split()) for one in question.context]
        if text and any(text in context or context in text for context in contexts):
            return True
        if document is not None and passage.document:
            if not _is_same_document(passage.document, document):
                return False
            if answering == frozenset(self.by_document.get(document, ())) != frozenset():
                return True
        words = word_strings(passage.text)
        return any(holds(words, word_strings(answer)) for answer in question.answers)

    def answering(self, question: Question, document: str | None) -> frozenset[int]:
        """Return the places of the passages that answer a question."""
        candidates = range(len(self.corpus)) if document is None else self.by_document[document]
        given = frozenset(at for at in candidates if self.corpus[at].text in question.context)
        if given:
            return given
        accepted = [word_strings(answer) for answer in question.answers]
        holding = frozenset(at for at in candidates if any(holds(self.words[at], one) for one in accepted))
        return holding if holding or document is None else frozenset(candidates)


def _is_same_document(one: str, other: str) -> bool:
    """Return True if two names may be the same document's: one is the end of the other's path, or its name."""
    paths = sorted((one.removeprefix("./").strip("/"), other.removeprefix("./").strip("/")), key=len)
    if f"/{paths[1]}".endswith(f"/{paths[0]}"):
        return True
    return "/" not in paths[0] and PurePosixPath(one).stem == PurePosixPath(other).stem


def _known_document(question: Question, by_document: Mapping[str, list[int]]) -> str | None:
    """Return the path in the corpus of the document that a question names.

    It may be named by the end of its path, or by its name without the extension.

    Raises:
        InputError: the corpus has none of that name, or several.
    """
    asked = question.document
    if asked is None or asked in by_document:
        return asked
    end = f"/{asked.removeprefix('./')}"
    by_path = [document for document in by_document if f"/{document}".endswith(end)]
    by_stem = [document for document in by_document if PurePosixPath(document).stem == PurePosixPath(asked).name]
    for found in (by_path, by_stem):
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"The question {question.question!r} names the document {asked!r}, and the corpus has {len(found)}: "
                f"{', '.join(found[:3])}.",
                hint="Give its path in the corpus.",
            )
    raise InputError(
        f"The question {question.question!r} names the document {asked!r}, which the corpus does not have.",
        hint=did_you_mean(asked, by_document),
    )
