"""Retrievers of the user's own: an HTTP endpoint, or an embedding model behind one for the retriever here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from llamafarm_ray.config.sections.retriever import EmbeddingServer, Retriever
from llamafarm_ray.data.generation.endpoint.client import Client, RefusedError, Terms, UnansweredError
from llamafarm_ray.data.generation.endpoint.limits import Budget, Pace, Prices
from llamafarm_ray.data.generation.servers import server_url
from llamafarm_ray.data.search.retrieval import PassageIndex
from llamafarm_ray.data.text.vectors import Vectors
from llamafarm_ray.errors import InfrastructureError, InputError, StorageError
from llamafarm_ray.evaluation.rag.exam import CorpusPassage, Retrieval, RetrievalFailure
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.evaluation.kept_answers import KeptAnswers

__all__ = ["Found", "retrieve"]

_SECTION: Final = "evaluation.retriever"
_EMBEDDINGS: Final = f"{_SECTION}.embeddings"
_TEXTS_A_REQUEST: Final = 64
_GARBAGE: Final = "answer is not of the form that was asked for"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Found:
    """Answers of a retriever of the user's own.

    Args:
        retriever: name of the retriever, for the digest of the settings.
        answers: an answer or a failure for each question, in their order.
        kept: answers on disk, for a run that is killed; None without a home.
    """

    retriever: str
    answers: list[Retrieval | RetrievalFailure]
    kept: KeptAnswers | None


def retrieve(
    section: Retriever,
    questions: Sequence[str],
    passages: Sequence[CorpusPassage],
    k: int,
    home: Location | None,
    *,
    first_wait_s: float = 0.5,
) -> Found | None:
    """Ask the configured retriever all questions; None if the retriever here is to search by its own vectors.

    Args:
        section: ``evaluation.retriever``.
        passages: passages of the corpus, which an embedding model gets vectors for.
        k: number of passages for each question.
        home: keeps answers until the evaluation is done; None keeps none.
        first_wait_s: wait after the first failure of a request; each further one doubles it.

    Raises:
        AccessDeniedError: the key is missing or not accepted.
        NotFoundError: the server has no such model or path.
        InputError: no server is named, or an embedding model has no corpus to search.
        InfrastructureError: the server gave no vectors for the corpus.
    """
    if section.url is not None:
        terms = _terms(section, section.url, first_wait_s)
        kept = _kept(home, [section.url, _key_digest(section.api_key_env)])
        ask = _ask_retriever(terms, kept, questions, k, ends_with_slash=section.url.endswith("/"))
        return Found(f"endpoint {section.url}", asyncio.run(ask), kept)
    given = section.embeddings
    if given.model is None:
        return None
    if not passages:
        raise InputError(f"{_EMBEDDINGS}.model has no passages to search.", hint="Give --corpus.")
    base_url, _ = server_url(given, _EMBEDDINGS, os.environ)
    if not base_url:
        raise InputError(
            f"{_EMBEDDINGS} names the model {given.model!r}, and no endpoint is configured to ask it.",
            hint=f"Set {_EMBEDDINGS}.base_url, or OPENAI_BASE_URL.",
        )
    terms = _terms(given, base_url, first_wait_s)
    kept = _kept(home, [base_url, given.model, _key_digest(given.api_key_env)])
    texts = [given.passage_prefix + passage.text for passage in passages]
    asked = [given.query_prefix + question for question in questions]
    of_passages, of_questions = asyncio.run(_ask_embeddings(terms, kept, given.model, texts, asked))
    answers = _ranked(questions, of_questions, passages, of_passages, k)
    prefixes = [given.query_prefix, given.passage_prefix]
    return Found(f"bm25+{base_url} {given.model} {prefixes}", answers, kept)


def _ranked(
    questions: Sequence[str],
    of_questions: Sequence[_Vector | RetrievalFailure],
    passages: Sequence[CorpusPassage],
    of_passages: Vectors,
    k: int,
) -> list[Retrieval | RetrievalFailure]:
    """Return the best ``k`` passages for each question, by their words and by the vectors."""
    width = of_passages.shape[1]
    vectors = {
        question: one.vector
        for question, one in zip(questions, of_questions, strict=True)
        if isinstance(one, _Vector) and one.vector.shape == (width,)
    }
    index = PassageIndex([passage.text for passage in passages], of_passages, vectors.__getitem__)
    answers: list[Retrieval | RetrievalFailure] = []
    for question, one in zip(questions, of_questions, strict=True):
        if isinstance(one, RetrievalFailure):
            answers.append(one)
        elif question not in vectors:
            answers.append(RetrievalFailure(f"vector has another length than the passages' {width}"))
        else:
            began = time.perf_counter()
            places = [at for at, _ in index.search(question, k)]
            took = one.seconds + time.perf_counter() - began
            answers.append(Retrieval(tuple(passages[at] for at in places), took))
    return answers


async def _ask_retriever(
    terms: Terms, kept: KeptAnswers | None, questions: Sequence[str], k: int, *, ends_with_slash: bool
) -> list[Retrieval | RetrievalFailure]:
    path = "/" if ends_with_slash else ""
    async with Client(terms) as client:
        asking = _Asking(client, asyncio.Semaphore(terms.concurrency), kept)

        async def answer(question: str) -> Retrieval | RetrievalFailure:
            body = {"query": question, "k": k}
            found = await asking.ask(path, body, lambda said: [_passage(one) for one in said["passages"]][:k])
            if isinstance(found, RetrievalFailure):
                return found
            passages, seconds = found
            return Retrieval(tuple(passages), seconds)

        return list(await asyncio.gather(*map(answer, questions)))


@dataclass(frozen=True, slots=True)
class _Vector:
    vector: Vectors
    seconds: float


async def _ask_embeddings(
    terms: Terms, kept: KeptAnswers | None, model: str, passages: Sequence[str], questions: Sequence[str]
) -> tuple[Vectors, list[_Vector | RetrievalFailure]]:
    """Return the passages' vectors, shape (passages, width), and the vector of each question.

    Raises:
        InfrastructureError: passages got no vectors, so that nothing can be searched.
    """
    async with Client(terms) as client:
        asking = _Asking(client, asyncio.Semaphore(terms.concurrency), kept)

        async def embed(texts: Sequence[str]) -> tuple[Vectors, float] | RetrievalFailure:
            body = {"model": model, "input": list(texts), "encoding_format": "float"}
            return await asking.ask("/embeddings", body, lambda said: _vectors(said, len(texts)))

        batches = [passages[at : at + _TEXTS_A_REQUEST] for at in range(0, len(passages), _TEXTS_A_REQUEST)]
        of_passages = await asyncio.gather(*map(embed, batches))
        reasons = [one.reason for one in of_passages if isinstance(one, RetrievalFailure)]
        found: list[Vectors] = [one[0] for one in of_passages if not isinstance(one, RetrievalFailure)]
        if reasons or len({vectors.shape[1] for vectors in found}) > 1:
            raise InfrastructureError(
                f"The endpoint {terms.base_url} gave no vectors for passages of the corpus: "
                f"{reasons[0] if reasons else 'they have different lengths'}.",
                hint="Look at the server's log, and run it again: vectors that have arrived are kept.",
            )
        of_questions = await asyncio.gather(*(embed([question]) for question in questions))
    return np.concatenate(found), [
        one if isinstance(one, RetrievalFailure) else _Vector(one[0][0], one[1]) for one in of_questions
    ]


@dataclass(frozen=True, slots=True)
class _Asking:
    """Requests to one server, each asked once and kept.

    Args:
        slots: limits the requests at once.
        kept: answers on disk; None keeps none.
    """

    client: Client
    slots: asyncio.Semaphore
    kept: KeptAnswers | None

    async def ask(
        self, path: str, body: Mapping[str, object], read: Callable[[Any], _T]
    ) -> tuple[_T, float] | RetrievalFailure:
        """Return an answer's content and its time, or the failure.

        Args:
            path: below the server's address.
            read: reads the answer's JSON; it raises for another form.

        Raises:
            UserError: a failure that all requests share: key, path or credit.
        """
        known = await asyncio.to_thread(self.kept.find, body) if self.kept is not None else None
        answer = known or await self._answer(path, body)
        if isinstance(answer, RetrievalFailure):
            return answer
        try:
            found = read(answer["said"]), float(answer["seconds"])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return RetrievalFailure(_GARBAGE)
        if known is None and self.kept is not None:
            with contextlib.suppress(StorageError):  # then it is asked for again
                await asyncio.to_thread(self.kept.keep, body, answer)
        return found

    async def _answer(self, path: str, body: Mapping[str, object]) -> dict[str, Any] | RetrievalFailure:
        """Return a server's answer, and its time with all attempts."""
        try:
            async with self.slots:
                began = time.perf_counter()
                response = await self.client.call("POST", path, json=dict(body))
                return {"said": response.json(), "seconds": time.perf_counter() - began}
        except RefusedError as refusal:
            return RetrievalFailure(f"request refused: {str(refusal).partition(':')[0]}")
        except UnansweredError as error:
            return RetrievalFailure(f"no answer: {error.last}")
        except ValueError:
            return RetrievalFailure(_GARBAGE)


def _passage(value: Mapping[str, object]) -> CorpusPassage:
    """Read a passage of an answer.

    Raises:
        ValueError: its text is no text.
    """
    text, document = value["text"], value.get("document") or value.get("id") or ""
    if not isinstance(text, str) or not isinstance(document, str | int):
        raise ValueError("no passage")
    return CorpusPassage(str(document), text)


def _vectors(said: Mapping[str, Any], count: int) -> Vectors:
    """Read unit vectors from an answer with OpenAI's embeddings, shape (count, width).

    Raises:
        ValueError: the answer has others, or numbers that are not finite.
    """
    by_place = {one.get("index", at): one["embedding"] for at, one in enumerate(said["data"])}
    vectors = np.asarray([by_place[at] for at in range(count)], dtype=np.float32)
    if vectors.ndim != 2 or not vectors.shape[1] or not np.isfinite(vectors).all():  # a table
        raise ValueError("no vectors")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: Vectors = vectors / np.where(lengths > 0, lengths, 1)
    return units


def _terms(section: Retriever | EmbeddingServer, base_url: str, first_wait_s: float) -> Terms:
    """Return the limits of a server; it has no limit of pace or cost."""
    return Terms(
        base_url=base_url,
        api_key=os.environ.get(section.api_key_env, ""),
        timeout_s=section.timeout_s,
        max_attempts=section.max_attempts,
        concurrency=section.concurrency,
        requests=Pace(None),
        tokens=Pace(None),
        budget=Budget(Prices(), None, _SECTION),
        first_wait_s=first_wait_s,
    )


def _key_digest(variable: str) -> str:
    """Return the digest of the key in an environment variable: another key may find other passages."""
    return Digest.of(os.environ.get(variable, "").encode())


def _kept(home: Location | None, names: Sequence[str]) -> KeptAnswers | None:
    if home is None:
        return None
    digest = Digest.of(json.dumps(names).encode()).removeprefix("sha256:")
    return KeptAnswers(home, f"retrieval-answers/{digest}")
