"""Rows to train on, from feedback on answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamafarm_ray.data.rows import ROLES, Message
from llamafarm_ray.data.text import normal_form
from llamafarm_ray.data.training_rows import judgement_row, preference_row
from llamafarm_ray.errors import InputError

__all__ = ["Feedback", "FeedbackRows", "judgement_rows", "preference_rows"]

_THUMBS = {"up": 1.0, "down": 0.0}
_DISLIKED_TO, _LIKED_FROM = 0.25, 0.75
"""The highest mean rating of a disliked answer, and the lowest of a liked one."""

Choice = tuple[tuple[Message, ...], str, str]
"""A conversation, the answer that a user chose, and the one that they rejected."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """Feedback of a user on one answer, or on two.

    Args:
        messages: the conversation up to the question.
        answer: the model's answer; of two the better one.
        rating: rating of the answer, from 0 to 1; None without one.
        correction: the answer as it should have been; empty without a correction.
        rejected: the worse one of two answers; empty where there is one.
    """

    messages: tuple[Message, ...]
    answer: str
    rating: float | None = None
    correction: str = ""
    rejected: str = ""

    def __post_init__(self) -> None:
        if self.rating is not None and not (math.isfinite(self.rating) and 0 <= self.rating <= 1):
            raise InputError(f"The rating {self.rating} of an answer is not between 0 and 1.", hint="Scale it first.")

    @classmethod
    def of(cls, record: Mapping[str, Any], *, highest: float = 1.0) -> Feedback:
        """Read a record with ``messages``, and ``answer`` with ``rating``, ``thumb`` or ``correction``.

        A record with ``chosen`` and ``rejected`` in their place is a choice between two answers.

        Args:
            record: ``rating`` is a number, true or false; ``thumb`` is ``up`` or ``down``.
            highest: the best rating, which becomes 1.

        Raises:
            InputError: a value is none of these.
        """
        rating, thumb = record.get("rating"), record.get("thumb")
        if thumb is not None and thumb not in _THUMBS:
            raise InputError(f"The thumb {thumb!r} is neither 'up' nor 'down'.")
        if rating is not None and not isinstance(rating, bool | int | float):
            raise InputError(f"The rating {rating!r} is no number.")
        if thumb is not None:
            rating = _THUMBS[thumb]
        elif rating is not None:
            try:
                rating = float(rating) / (1.0 if isinstance(rating, bool) else highest)
            except OverflowError:
                raise InputError("The rating is a number far too large.") from None
        messages = tuple(Message(turn["role"], turn["content"]) for turn in record["messages"])
        for message in messages:
            if message.role not in ROLES or not isinstance(message.content, str):
                raise InputError(f"The turn {message.content!r} of {message.role!r} is no text of a known role.")
        if record.get("chosen") is not None or record.get("rejected") is not None:
            return cls(messages, str(record["chosen"]), rejected=str(record["rejected"]))
        return cls(messages, str(record["answer"]), rating, str(record.get("correction") or ""))


@dataclass(frozen=True, slots=True)
class FeedbackRows:
    """Rows made from feedback.

    Args:
        rows: without the columns that say where they came from.
        num_dropped: records that gave no row, by reason.
    """

    rows: list[dict[str, Any]]
    num_dropped: dict[str, int] = field(default_factory=dict)


def preference_rows(records: Iterable[Feedback], *, least_margin: float = 0.5) -> FeedbackRows:
    """Pairs of a better and a worse answer to the same question, for the objective ``dpo``.

    A correction is preferred to the answer it corrects, and a chosen answer to the rejected one, unless as many users
    chose the other. Answers to one question that were rated apart are a pair as
    well: the best with the worst, the next best with the next worst, and so on, so that each is used once.

    Args:
        least_margin: least difference between two ratings.
    """
    rows: list[dict[str, object]] = []
    dropped: Counter[str] = Counter()
    rated: dict[tuple[Message, ...], dict[str, list[float]]] = {}
    chosen: Counter[Choice] = Counter()
    for record in records:
        reason = _unusable(record)
        if reason:
            dropped[reason] += 1
        elif record.rejected.strip():
            chosen[record.messages, record.answer, record.rejected] += 1
        elif record.correction.strip():
            if normal_form(record.correction) == normal_form(record.answer):
                dropped["correction says what the answer says"] += 1
            else:
                rows.append(preference_row(record.messages, record.correction, record.answer))
        elif record.rating is None:
            dropped["neither rated nor corrected"] += 1
        else:
            rated.setdefault(record.messages, {}).setdefault(record.answer, []).append(record.rating)
    for (messages, better, worse), count in chosen.items():
        if chosen[messages, worse, better] < count:
            rows.append(preference_row(messages, better, worse))
            dropped["repeated"] += count - 1
        else:
            dropped["as many or more users chose the other answer"] += count
    for messages, answers in rated.items():
        pairs = list(_pairs(answers, least_margin))
        rows += [preference_row(messages, better, worse) for better, worse in pairs]
        used = {answer for pair in pairs for answer in pair}
        alone = sum(len(ratings) for answer, ratings in answers.items() if answer not in used)
        reason = "no other answer to compare with" if len(answers) == 1 else "ratings too close"
        dropped += Counter({reason: alone})
    return FeedbackRows(_once(rows, dropped), dict(sorted(dropped.items())))


def judgement_rows(records: Iterable[Feedback]) -> FeedbackRows:
    """Answers that were liked or not, for the objective ``kto``.

    A corrected answer counts as not liked, and the correction as liked. Of two answers the chosen one counts as rated
    1, the other as rated 0. Several ratings of one answer count by their mean; one between liked and not says too
    little.
    """
    rows: list[dict[str, object]] = []
    dropped: Counter[str] = Counter()
    rated: dict[tuple[tuple[Message, ...], str], list[float]] = {}
    for record in records:
        reason = _unusable(record)
        if reason:
            dropped[reason] += 1
        elif record.rejected.strip():
            rated.setdefault((record.messages, record.answer), []).append(1.0)
            rated.setdefault((record.messages, record.rejected), []).append(0.0)
        elif record.correction.strip() and normal_form(record.correction) != normal_form(record.answer):
            rows.append(_judged(record.messages, record.answer, label=False))
            rows.append(_judged(record.messages, record.correction, label=True))
        elif record.rating is None:
            said = (
                "correction says what the answer says" if record.correction.strip() else "neither rated nor corrected"
            )
            dropped[said] += 1
        else:
            rated.setdefault((record.messages, record.answer), []).append(record.rating)
    for (messages, answer), ratings in rated.items():
        mean = sum(ratings) / len(ratings)
        if _DISLIKED_TO < mean < _LIKED_FROM:
            dropped["rating says too little"] += len(ratings)
        else:
            rows.append(_judged(messages, answer, label=mean >= _LIKED_FROM))
    return FeedbackRows(_once(rows, dropped), dict(sorted(dropped.items())))


def _unusable(record: Feedback) -> str:
    if not record.messages or record.messages[-1].role != "user":
        return "no question"
    if not record.answer.strip():
        return "empty answer"
    is_same = record.rejected and normal_form(record.rejected) == normal_form(record.answer)
    return "both answers say the same" if is_same else ""


def _pairs(answers: Mapping[str, Sequence[float]], least_margin: float) -> Iterator[tuple[str, str]]:
    means = sorted((-sum(ratings) / len(ratings), answer) for answer, ratings in answers.items())
    for (best, better), (worst, worse) in zip(means, reversed(means), strict=True):
        if worst - best < least_margin or normal_form(better) == normal_form(worse):
            return
        yield better, worse


def _judged(messages: Sequence[Message], answer: str, *, label: bool) -> dict[str, object]:
    return judgement_row([*messages, Message("assistant", answer)], label=label)


def _once(rows: Iterable[dict[str, Any]], dropped: Counter[str]) -> list[dict[str, object]]:
    kept: dict[str, dict[str, Any]] = {}
    for row in rows:
        if kept.setdefault(row["id"], row) is not row:
            dropped["repeated"] += 1
    dropped += Counter()  # without reasons that no record has
    return list(kept.values())
