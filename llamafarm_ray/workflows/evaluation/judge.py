"""Judge an evaluation's answers by a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from llamafarm_ray.config import Config
from llamafarm_ray.config.sections.evaluation import Judge
from llamafarm_ray.data.generation.endpoint.answers import BadAnswerError, parse_json
from llamafarm_ray.data.generation.endpoint.cache import Answer, AnswerCache
from llamafarm_ray.data.generation.endpoint.client import Client, RefusedError, Terms, UnansweredError
from llamafarm_ray.data.generation.endpoint.parsed import ask_parsed
from llamafarm_ray.data.generation.endpoint.requests import chat_request
from llamafarm_ray.data.generation.endpoint.terms import terms_of
from llamafarm_ray.data.generation.servers import server_url
from llamafarm_ray.errors import AccessDeniedError, InputError, LlamaFarmError, NotFoundError
from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.judges.cases import JudgedAnswer, Labels, labels_of
from llamafarm_ray.evaluation.judges.judging import (
    Failure,
    JudgeRequest,
    Key,
    Verdict,
    judge_requests,
    judge_scores,
)
from llamafarm_ray.evaluation.judges.requests import PREFERENCE, RATING, read_preference, read_rating
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult
from llamafarm_ray.evaluation.run import HELD_OUT
from llamafarm_ray.types import Digest

__all__ = ["JudgePlan", "LabeledRows"]

_SECTION = "evaluation.judge.endpoint"
_CACHE = "judge-answers"
_FORMATS = {"preference": PREFERENCE, "rating": RATING}
_READERS = {"preference": read_preference, "rating": read_rating}

LabeledRows = Sequence[tuple[str, tuple[str, ...], Mapping[str, object]]]
"""Question, accepted answers and row of each question of a set."""


@dataclass(frozen=True, slots=True)
class JudgePlan:
    """A judge that is ready to be asked.

    Args:
        base_url: the server's address.
        cache: folder or URI of its answers.
        labels: answers that people have judged, by set.
    """

    judge: Judge
    base_url: str
    cache: str
    labels: Mapping[str, Labels]

    @classmethod
    def of(cls, config: Config, home: str, rows: Mapping[str, LabeledRows]) -> Self | None:
        """Return the judge of ``evaluation.judge``; None if no model is named.

        Args:
            home: URI of the home, where answers are kept.
            rows: the questions' rows by set, for their labels.

        Raises:
            InputError: a model is named and no server, or a label has another form.
        """
        judge = config.evaluation.judge
        if judge.model is None:
            return None
        base_url, _ = server_url(judge.endpoint, _SECTION, os.environ)
        if not base_url:
            raise InputError(
                f"evaluation.judge.model names the model {judge.model!r}, and no endpoint is configured to ask it.",
                hint=f"Set {judge.endpoint.api_key_env}, or OPENAI_BASE_URL or {_SECTION}.base_url for another server.",
            )
        labels = {name: labels_of(of_set) for name, of_set in rows.items()}
        return cls(judge, base_url, f"{home.rstrip('/')}/{_CACHE}", labels)

    def judge_result(self, result: EvaluationResult, first_wait_s: float = 0.5) -> EvaluationResult:
        """Return a result with the judge's scores of its answers.

        Other scores stay as they are; the differences of all are corrected together.

        Held-out examples are not judged. Failures of the judge are counted in its own scores and never raised.

        Args:
            result: its ``answered`` are judged, set by set.
            first_wait_s: wait after the first failure of a request; each further one doubles it.
        """
        by_set: dict[str, list[Answered]] = {}
        for one in result.answered:
            if one.benchmark in result.benchmarks and one.benchmark != HELD_OUT:
                by_set.setdefault(one.benchmark, []).append(one)
        terms = terms_of(
            self.judge.endpoint, self.base_url, os.environ.get(self.judge.endpoint.api_key_env, ""), _SECTION
        )
        terms.first_wait_s = first_wait_s
        stopped: list[str] = []
        judged = {name: self._judge_set(name, members, terms, stopped) for name, members in by_set.items()}
        digests = {name: (result.benchmarks[name].digests or {}) for name in judged}
        known = {name: replace(one, digests=self._digests(digests[name])) for name, one in judged.items()}
        return replace(result, judge=known).corrected()

    def _judge_set(self, name: str, members: Sequence[Answered], terms: Terms, stopped: list[str]) -> BenchmarkScores:
        answers = [
            JudgedAnswer(one.prompt, one.accepted, one.answer, one.baseline_answer, one.slices.get("document"))
            for one in members
        ]
        labels = self.labels.get(name, Labels())
        requests = judge_requests(answers, labels, self.judge.methods, self.judge.criteria)
        verdicts = asyncio.run(self._ask(requests, terms, stopped))
        scores = judge_scores(answers, labels, self.judge.methods, verdicts)
        temperature = "the server's own temperature" if "no temperature" in terms.dialect.changes else "temperature 0"
        how = " and ".join(
            {"pairwise": "pairwise with positions swapped", "rubric": "rubric 1 to 5"}[one]
            for one in self.judge.methods
        )
        return replace(
            scores,
            method=f"Judge {self.judge.model}, {how}, {temperature}.",
            sample=f"{name} ({len(answers)} answers, {len(labels.answers) + len(labels.pairs)} labels)",
            reason=None if scores.metrics else "the judge gave no verdict",
        )

    async def _ask(self, requests: Mapping[Key, JudgeRequest], terms: Terms, stopped: list[str]) -> dict[Key, Verdict]:
        """Return a verdict for each request. After a failure that all requests share, the rest are not sent."""
        slots = asyncio.Semaphore(terms.concurrency)
        async with Client(terms) as client:

            async def verdict(request: JudgeRequest) -> Verdict:
                async with slots:
                    return Failure(stopped[0]) if stopped else await self._verdict(client, request, terms, stopped)

            return dict(zip(requests, await asyncio.gather(*map(verdict, requests.values())), strict=True))

    async def _verdict(self, client: Client, request: JudgeRequest, terms: Terms, stopped: list[str]) -> Verdict:
        """Return the verdict, or the failure; the name of one that all requests share is added to ``stopped``."""
        body = chat_request(
            str(self.judge.model),
            request.messages,
            temperature=0.0,
            max_output_tokens=self.judge.endpoint.max_output_tokens,
            answer_format=_FORMATS[request.kind],
        )
        try:
            return await ask_parsed(
                client, AnswerCache(self.cache), terms.base_url, body, functools.partial(_parsed, kind=request.kind)
            )
        except BadAnswerError:
            return Failure("verdict is not the JSON that was asked for")
        except RefusedError as refusal:
            return Failure(f"request refused: {str(refusal).partition(':')[0]}")
        except UnansweredError as error:
            return Failure(f"no answer: {error.last}")
        except LlamaFarmError as error:
            stopped.append(_named(error))
            return Failure(stopped[0])

    def _digests(self, digests: Mapping[str, str]) -> dict[str, str]:
        """Return the digests of the answers with the judge among the settings."""
        settings = f"{digests.get('settings', '')} {self.judge.model} {self.judge.methods} {self.judge.criteria}"
        return {**digests, "settings": Digest.of(settings.encode())}


def _parsed(answer: Answer, *, kind: str) -> Verdict:
    if answer.finish_reason == "length":
        raise BadAnswerError("It was cut at the limit of tokens: give a shorter reason.")
    try:
        return _READERS[kind](parse_json(answer.content))
    except ValueError as error:
        raise BadAnswerError(str(error)) from None


def _named(error: LlamaFarmError) -> str:
    match error:
        case AccessDeniedError():
            return "key not accepted"
        case NotFoundError():
            return "no such model or path"
        case InputError():
            return "limit of cost or credit reached"
    return error.code
