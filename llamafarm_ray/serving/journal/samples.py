"""Redacted samples of requests and answers, kept where a configuration asks for them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final

from llamafarm_ray.errors import InputError
from llamafarm_ray.text.pii.find import find_pii, redact

__all__ = ["MAX_SAMPLE_CHARS", "LiveSample", "Reservoir", "read_samples"]

MAX_SAMPLE_CHARS: Final = 4000
_MAX_A_VERSION: Final = 100
_MAX_VERSIONS: Final = 100


@dataclass(frozen=True, slots=True)
class LiveSample:
    """A question that users asked, and the answer.

    Args:
        ref: version that answered, ``name:version`` or the base's name.
        time_s: time of the request, seconds since 1970.
        question: the last message by the user.
        is_redacted: True if personal data and secrets were replaced.
    """

    ref: str
    time_s: float
    question: str
    answer: str
    seconds: float
    num_tokens: int
    is_redacted: bool = False

    def redacted(self) -> LiveSample:
        """Return it with all personal data and secrets replaced by their kinds, as in ``[EMAIL]``."""
        question, answer = (redact(text, find_pii(text)) for text in (self.question, self.answer))
        return replace(self, question=question, answer=answer, is_redacted=True)


class Reservoir:
    """A uniform sample of each version's chosen requests: at most 100 of each, by Vitter's algorithm R (1985).

    Args:
        rate: share of the requests that are candidates, 0 to 1.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._rng = random.Random()
        self._kept: dict[str, list[LiveSample]] = {}
        self._num_offered: dict[str, int] = {}

    def draws(self) -> bool:
        """Return True if the next request is a candidate."""
        return self._rate > 0 and self._rng.random() < self._rate

    def offer(self, sample: LiveSample) -> None:
        """Take in a candidate, in place of another one where there are enough."""
        if sample.ref not in self._kept and len(self._kept) >= _MAX_VERSIONS:
            return
        kept = self._kept.setdefault(sample.ref, [])
        number = self._num_offered[sample.ref] = self._num_offered.get(sample.ref, 0) + 1
        if len(kept) < _MAX_A_VERSION:
            kept.append(sample)
        elif (at := self._rng.randrange(number)) < _MAX_A_VERSION:
            kept[at] = sample

    def redact(self) -> None:
        """Replace personal data and secrets in all samples; takes milliseconds for each new one."""
        for kept in list(self._kept.values()):
            for at, sample in enumerate(list(kept)):
                if not sample.is_redacted and kept[at] is sample:
                    made = sample.redacted()
                    if kept[at] is sample:  # the loop that serves may have put another one there
                        kept[at] = made

    def to_list(self) -> list[dict[str, object]]:
        """Return the redacted samples as plain values; others are left out."""
        return [asdict(sample) for kept in list(self._kept.values()) for sample in list(kept) if sample.is_redacted]


def read_samples(values: object) -> list[LiveSample]:
    """Read the plain values of :meth:`Reservoir.to_list`.

    Raises:
        InputError: they are not such.
    """
    try:
        return [LiveSample(**one) for one in values if isinstance(one, Mapping)] if isinstance(values, list) else []
    except TypeError as error:
        raise InputError(f"These values are no samples: {error}.") from None
