"""Sketches of requests: counts, histograms and signs of topics, and no text."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from llamafarm_ray.errors import InputError
from llamafarm_ray.serving.journal.topics import NUM_SIGNS, Signs
from llamafarm_ray.serving.telemetry.outcome import End

__all__ = ["OTHER_LANGUAGES", "Observation", "Sketch", "bucket", "bucket_end"]

_GROWTH: Final = 1.2
"""Upper end of a bucket over its lower end: quantiles are off by a fifth at most."""
_SHORTEST_S: Final = 1e-3
_LEAST_LOSS: Final = 1e-3
"""Smaller losses are one bucket: the answer is all but certain."""
_MAX_LANGUAGES: Final = 10
OTHER_LANGUAGES: Final = "other"
_COUNTS: Final = ("num_failed", "num_refused", "num_cancelled", "num_checked", "num_empty", "num_declined")
_RATED: Final = ("num_rated", "num_disliked")
_HISTOGRAMS: Final = ("prompt_tokens", "answer_tokens", "latency", "wait", "answer_loss")


def bucket(value: float) -> int:
    """Return the bucket of a number: ``bucket_end`` of it is the least that is not smaller."""
    return math.ceil(math.log(value) / math.log(_GROWTH) - 1e-9) if value > 0 else -100


def bucket_end(number: int) -> float:
    """Return the upper end of a bucket."""
    return _GROWTH**number if number > -100 else 0.0  # that of 0


@dataclass(frozen=True, slots=True)
class Observation:
    """One request, as far as a sketch counts it.

    Args:
        latency_s: seconds from its turn at the engine to the end of the answer.
        wait_s: seconds that it waited for its turn.
        language: of the question; "" if it is not known.
        signs: fingerprint of the question's topic.
        is_empty: True if the answer has no content; None if it was not read.
        declines: True if the answer declines to answer; None likewise.
        answer_loss: mean negative log-probability of the answer's tokens under the serving model, in nats; None if it
            is not known.
    """

    end: End
    latency_s: float
    wait_s: float = 0.0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    language: str = ""
    signs: Signs | None = None
    is_empty: bool | None = None
    declines: bool | None = None
    answer_loss: float | None = None


@dataclass(slots=True)
class Sketch:
    """Counts of some requests; sketches add up.

    Args:
        start_s: end of the first one, seconds since 1970.
        end_s: end of the last one.
        num_refused: requests that the engine refused, the clients' mistakes.
        num_cancelled: those whose client left.
        num_checked: answers whose beginning was read.
        num_empty: those of them without content.
        num_declined: those of them that decline to answer.
        num_rated: ratings by users.
        num_disliked: ratings below 0.5.
        languages: questions by language.
        latency: histogram of latencies in seconds.
        wait: histogram of seconds that requests waited for their turn.
        answer_loss: histogram of the losses of sampled answers, in nats a token.
        num_signed: questions with a fingerprint.
        signs: number of these with each sign, shape ``(64,)``.
    """

    start_s: float = math.inf
    end_s: float = 0.0
    num_answered: int = 0
    num_failed: int = 0
    num_refused: int = 0
    num_cancelled: int = 0
    num_checked: int = 0
    num_empty: int = 0
    num_declined: int = 0
    num_rated: int = 0
    num_disliked: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    prompt_tokens: Counter[int] = field(default_factory=Counter)
    answer_tokens: Counter[int] = field(default_factory=Counter)
    latency: Counter[int] = field(default_factory=Counter)
    wait: Counter[int] = field(default_factory=Counter)
    answer_loss: Counter[int] = field(default_factory=Counter)
    num_signed: int = 0
    signs: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_SIGNS, dtype=np.int64))
    _json: str = field(default="", init=False, repr=False)
    """Its plain values as written last; empty once a request was counted since."""

    @property
    def num_requests(self) -> int:
        """Requests that were answered or failed; clients' mistakes and those whose client left are not among them."""
        return self.num_answered + self.num_failed

    def add(self, seen: Observation, now_s: float) -> None:
        """Count a request that ended at a time."""
        self._at(now_s)
        match seen.end:
            case End.REFUSED:
                self.num_refused += 1
                return
            case End.CANCELLED:
                self.num_cancelled += 1
                return
            case End.FAILED:
                self.num_failed += 1
            case End.ANSWERED:
                self.num_answered += 1
                self.answer_tokens[bucket(seen.answer_tokens)] += 1
                self.latency[bucket(max(seen.latency_s, _SHORTEST_S))] += 1
                if seen.is_empty is not None:
                    self.num_checked += 1
                    self.num_empty += seen.is_empty
                    self.num_declined += bool(seen.declines)
                if seen.answer_loss is not None:
                    self.answer_loss[bucket(max(seen.answer_loss, _LEAST_LOSS))] += 1
        self.prompt_tokens[bucket(seen.prompt_tokens)] += 1
        self.wait[bucket(max(seen.wait_s, _SHORTEST_S))] += 1
        if seen.language:
            known = seen.language in self.languages or len(self.languages) < _MAX_LANGUAGES
            self.languages[seen.language if known else OTHER_LANGUAGES] += 1
        if seen.signs is not None:
            self.num_signed += 1
            self.signs += seen.signs

    def rate(self, rating: float, now_s: float) -> None:
        """Count a user's rating of an answer, 0 to 1."""
        self._at(now_s)
        self.num_rated += 1
        self.num_disliked += rating < 0.5  # the middle

    def _at(self, now_s: float) -> None:
        self._json = ""
        self.start_s, self.end_s = min(self.start_s, now_s), max(self.end_s, now_s)

    def __add__(self, other: Sketch) -> Sketch:
        numbers = {name: getattr(self, name) + getattr(other, name) for name in ("num_answered", *_COUNTS, *_RATED)}
        histograms = {name: getattr(self, name) + getattr(other, name) for name in (*_HISTOGRAMS, "languages")}
        return Sketch(
            start_s=min(self.start_s, other.start_s),
            end_s=max(self.end_s, other.end_s),
            num_signed=self.num_signed + other.num_signed,
            signs=self.signs + other.signs,
            **numbers,
            **histograms,
        )

    def to_dict(self) -> dict[str, object]:
        """Return plain values; zeros are left out."""
        found: dict[str, object] = {"start_s": round(self.start_s, 3), "end_s": round(self.end_s, 3)}
        numbers = ("num_answered", *_COUNTS, *_RATED, "num_signed")
        found |= {name: getattr(self, name) for name in numbers if getattr(self, name)}
        found |= {name: dict(getattr(self, name)) for name in (*_HISTOGRAMS, "languages") if getattr(self, name)}
        if self.num_signed:
            found["signs"] = self.signs.tolist()
        return found

    def to_json(self) -> str:
        """Return the plain values as JSON; of a block that is full they are made once."""
        self._json = self._json or json.dumps(self.to_dict(), separators=(",", ":"))
        return self._json

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read plain values.

        Raises:
            InputError: they are no sketch.
        """
        try:
            sketch = cls(float(values["start_s"]), float(values["end_s"]))
            for name in ("num_answered", *_COUNTS, *_RATED, "num_signed"):
                setattr(sketch, name, int(values.get(name, 0)))
            for name in _HISTOGRAMS:
                setattr(sketch, name, Counter({int(key): int(one) for key, one in values.get(name, {}).items()}))
            sketch.languages = Counter({str(key): int(one) for key, one in values.get("languages", {}).items()})
            signs = np.asarray(values.get("signs", [0] * NUM_SIGNS), dtype=np.int64)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"These values are no sketch: {error!r}.") from None
        if signs.shape != (NUM_SIGNS,):
            raise InputError(f"A sketch has {NUM_SIGNS} signs, not {signs.size}.")
        sketch.signs = signs
        return sketch
