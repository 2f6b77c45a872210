"""Requests about the answers of a set to a judge, by keys, and the scores that its verdicts give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llamafarm_ray.evaluation.comparison import Clusters, PairedScores, interval_of, rate_interval
from llamafarm_ray.evaluation.judges.cases import JudgedAnswer, LabeledPair, Labels
from llamafarm_ray.evaluation.judges.kappa import cohens_kappa
from llamafarm_ray.evaluation.judges.requests import Preference, preference_messages, rating_messages
from llamafarm_ray.evaluation.result import BenchmarkScores
from llamafarm_ray.types import Digest

__all__ = ["Failure", "JudgeRequest", "Key", "Method", "Verdict", "judge_requests", "judge_scores"]

Method = Literal["pairwise", "rubric"]
Key = tuple[str, int, int]
"""Key of a request: the kind, the place of the answer or label, and the order or the answer's owner."""

_COMPARED, _RATED, _LABELED_PAIR, _LABELED = "compared", "rated", "labeled pair", "labeled answer"
_MODEL, _BASELINE = 0, 1
_GOOD = 4
_WON, _TIED, _LOST = 1.0, 0.5, 0.0


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """A request to the judge.

    Args:
        kind: decides the form of the answer.
    """

    kind: Literal["preference", "rating"]
    messages: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without a verdict, with the name of the reason."""

    reason: str


Verdict = Preference | int | Failure


def judge_requests(
    answers: Sequence[JudgedAnswer], labels: Labels, methods: Sequence[Method], criteria: str
) -> dict[Key, JudgeRequest]:
    """Return the requests about answers and labels by their keys.

    Answers are compared in both orders (MT-Bench, https://arxiv.org/abs/2306.05685); equal ones are not asked about.
    """
    return dict(_requests(answers, labels, methods, criteria))


def _requests(
    answers: Sequence[JudgedAnswer], labels: Labels, methods: Sequence[Method], criteria: str
) -> Iterator[tuple[Key, JudgeRequest]]:
    def both_orders(
        kind: str, at: int, about: JudgedAnswer | LabeledPair, one: str, other: str
    ) -> Iterator[tuple[Key, JudgeRequest]]:
        for order, (first, second) in enumerate(((one, other), (other, one))):
            messages = preference_messages(about.question, about.accepted, first, second, criteria)
            yield (kind, at, order), JudgeRequest("preference", messages)

    def rating(question: str, accepted: tuple[str, ...], answer: str) -> JudgeRequest:
        return JudgeRequest("rating", rating_messages(question, accepted, answer, criteria))

    for at, one in enumerate(answers):
        if "pairwise" in methods and one.baseline is not None and not _is_same(one):
            yield from both_orders(_COMPARED, at, one, one.answer, one.baseline)
        if "rubric" in methods:
            yield (_RATED, at, _MODEL), rating(one.question, one.accepted, one.answer)
            if one.baseline is not None:
                yield (_RATED, at, _BASELINE), rating(one.question, one.accepted, one.baseline)
    for at, pair in enumerate(labels.pairs if "pairwise" in methods else ()):
        yield from both_orders(_LABELED_PAIR, at, pair, pair.better, pair.worse)
    for at, label in enumerate(labels.answers if "rubric" in methods else ()):
        yield (_LABELED, at, _MODEL), rating(label.question, label.accepted, label.answer)


def judge_scores(
    answers: Sequence[JudgedAnswer], labels: Labels, methods: Sequence[Method], verdicts: Mapping[Key, Verdict]
) -> BenchmarkScores:
    """Return a judge's scores of a set.

    ``win_rate`` counts an answer that is preferred in both orders as 1, one that is not in either as 0, and all else
    as 0.5. ``position_consistency`` is the share of comparisons with the same result in both orders. ``rating`` is the
    mean from 1 to 5, ``good_rate`` the share of 4 and 5. ``preference_kappa`` and ``rating_kappa`` are the agreement
    with labels. A question without its verdicts is in no score, and ``failures`` counts requests without one.
    """
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}

    def add(name: str, values: Mapping[int, float]) -> None:
        if values:
            metrics[name] = sum(values.values()) / len(values)
            clusters = [answers[at].document or at for at in values]
            if {*values.values()} <= {0.0, 1.0}:
                intervals[name] = rate_interval(list(values.values()), clusters)
            elif len({*clusters}) > 1:
                intervals[name] = interval_of(Clusters.of(list(values.values()), clusters))

    orders = {at: _orders(verdicts, _COMPARED, at) for at, one in enumerate(answers) if _is_compared(one, methods)}
    outcomes = {at: _TIED if _is_same(answers[at]) else _outcome(order) for at, order in orders.items()}
    add("win_rate", {at: outcome for at, outcome in outcomes.items() if outcome is not None})
    add(
        "position_consistency",
        {at: _is_consistent(order) for at, order in orders.items() if _outcome(order) is not None},
    )
    ours, theirs = (_ratings(verdicts, whose) for whose in (_MODEL, _BASELINE))
    add("rating", ours)
    add("good_rate", {at: float(rating >= _GOOD) for at, rating in ours.items()})
    for name, pairs in _agreements(labels, verdicts).items():
        if (agreement := cohens_kappa(pairs)) is not None:
            metrics[name], intervals[name] = agreement.kappa, (agreement.low, agreement.high)
    failures = Counter(verdict.reason for verdict in verdicts.values() if isinstance(verdict, Failure))
    judged = {at for at, outcome in outcomes.items() if outcome is not None} | {*ours}
    scores = BenchmarkScores(
        metrics=metrics,
        baseline=_baseline(theirs),
        num_examples=len(judged),
        num_skipped=len(answers) - len(judged),
        intervals=intervals or None,
        failures=dict(failures) or None,
    )
    return scores.compared(_pairs(answers, ours, theirs))


def _is_same(one: JudgedAnswer) -> bool:
    return one.baseline is not None and one.answer.strip() == one.baseline.strip()


def _is_compared(one: JudgedAnswer, methods: Sequence[Method]) -> bool:
    return "pairwise" in methods and one.baseline is not None


def _orders(verdicts: Mapping[Key, Verdict], kind: str, at: int) -> tuple[Verdict | None, Verdict | None]:
    return verdicts.get((kind, at, 0)), verdicts.get((kind, at, 1))


def _outcome(orders: tuple[Verdict | None, Verdict | None]) -> float | None:
    """Return the outcome for the answer that stood first in the first order; None without both verdicts."""
    match orders:
        case ("first", "second"):
            return _WON
        case ("second", "first"):
            return _LOST
        case (str(), str()):
            return _TIED
    return None


def _is_consistent(orders: tuple[Verdict | None, Verdict | None]) -> float:
    return float(orders in {("first", "second"), ("second", "first"), ("tie", "tie")})


def _ratings(verdicts: Mapping[Key, Verdict], whose: int) -> dict[int, float]:
    return {
        at: float(verdict)
        for (kind, at, of), verdict in verdicts.items()
        if kind == _RATED and of == whose and isinstance(verdict, int)
    }


def _baseline(ratings: Mapping[int, float]) -> dict[str, float] | None:
    if not ratings:
        return None
    count = len(ratings)
    good = sum(rating >= _GOOD for rating in ratings.values())
    return {"rating": sum(ratings.values()) / count, "good_rate": good / count}


def _pairs(
    answers: Sequence[JudgedAnswer], ours: Mapping[int, float], theirs: Mapping[int, float]
) -> dict[str, PairedScores]:
    both = [at for at in ours if at in theirs]
    documents = [answers[at].document for at in both]
    return {"rating": PairedScores([ours[at] for at in both], [theirs[at] for at in both], documents)} if both else {}


def _agreements(labels: Labels, verdicts: Mapping[Key, Verdict]) -> dict[str, list[tuple[object, object]]]:
    """Return pairs of a person's class and the judge's, by the name of the kappa.

    The better answer of a pair is class 0 or 1 by a digest: with one class alone, chance would explain all agreement.
    """
    preferences: list[tuple[object, object]] = []
    for at, pair in enumerate(labels.pairs):
        outcome = _outcome(_orders(verdicts, _LABELED_PAIR, at))
        if outcome is not None:
            better = int(Digest.of(f"{pair.better}\n{pair.worse}".encode())[-1], 16) % 2
            preferences.append((better, {_WON: better, _LOST: 1 - better}.get(outcome, "tie")))
    ratings: list[tuple[object, object]] = []
    for at, label in enumerate(labels.answers):
        verdict = verdicts.get((_LABELED, at, _MODEL))
        if isinstance(verdict, int):
            ratings.append((label.is_good, verdict >= _GOOD))
    return {"preference_kappa": preferences, "rating_kappa": ratings}
