"""The journal of a replica: it takes in requests, and writes the day's file now and then."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from llamafarm_ray.config import Journal as Settings
from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.registry.usage import write_page
from llamafarm_ray.serving.http.asgi import Send
from llamafarm_ray.serving.journal.blocks import Blocks
from llamafarm_ray.serving.journal.files import day_name, page_bytes, remove_old
from llamafarm_ray.serving.journal.ledger import Devices, ledger_rows
from llamafarm_ray.serving.journal.logprobs import AnswerLogprobs, ask_for_logprobs
from llamafarm_ray.serving.journal.opening import AnswerOpening, Opening, question_of
from llamafarm_ray.serving.journal.samples import MAX_SAMPLE_CHARS, LiveSample, Reservoir
from llamafarm_ray.serving.journal.sketch import Observation
from llamafarm_ray.serving.journal.topics import topic_signs
from llamafarm_ray.serving.journal.usage import UsageKey, UsageTable, Used
from llamafarm_ray.serving.telemetry.outcome import End, FinishedRequest
from llamafarm_ray.storage import Location
from llamafarm_ray.text.languages import language_of
from llamafarm_ray.text.refusals import is_refusal

__all__ = ["Drawn", "Journal"]

logger = logging.getLogger("ray.serve.llamafarm")

_WRITE_S: Final = 10.0
_AT_LEAST_S: Final = 600.0
"""Seconds between two writes of an idle replica's file, which records how long it ran."""
_MAX_LANGUAGE_CHARS: Final = 300
_ANSWERS: Final = {"/v1/chat/completions", "/v1/completions"}


@dataclass(slots=True)
class _Day:
    """The records of one day."""

    day: dt.date
    start_s: float
    blocks: Blocks
    usage: UsageTable
    samples: Reservoir
    is_written: bool = True


@dataclass(frozen=True, slots=True)
class Drawn:
    """A request that is sampled.

    Args:
        logprobs: reads log-probabilities of the answer; None if the engine returns none.
    """

    logprobs: AnswerLogprobs | None = None


class Journal:
    """Counts requests by version, key and time; texts are read for their sketches, and dropped.

    Args:
        tells_logprobs: True if the engine returns log-probabilities of any answer; sampled requests ask for them.
        clock: seconds since 1970.

    Attributes:
        replica: a name of the replica, new each time that it starts; it is its writer's in the ledger, too.
    """

    def __init__(
        self,
        home: Location,
        settings: Settings,
        *,
        application: str = "",
        devices: Devices | None = None,
        tells_logprobs: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._home = home
        self._settings = settings
        self._devices = devices or Devices()
        self._tells_logprobs = tells_logprobs
        self._clock = clock
        self._trouble = ""
        self._wrote_s = 0.0
        self._days: list[_Day] = []
        self.application = application
        self.replica = secrets.token_hex(8)

    def drawn(self, path: str, body: dict[str, object]) -> Drawn | None:
        """Draw whether a request is sampled; None if it is not.

        Args:
            body: body for the engine; a sampled one asks for log-probabilities too, if the engine returns them.
        """
        if not self._settings.sketches or path not in _ANSWERS or not self._today().samples.draws():
            return None
        return Drawn(ask_for_logprobs(path, body) if self._tells_logprobs else None)

    def opening(self, send: Send, path: str, drawn: Drawn | None = None) -> AnswerOpening | None:
        """Return what reads the beginning of an answer on its way; None where nothing is to be read."""
        if not self._settings.sketches or path not in _ANSWERS:
            return None
        return AnswerOpening(send, MAX_SAMPLE_CHARS, drawn.logprobs) if drawn is not None else AnswerOpening(send)

    def add(
        self,
        request: FinishedRequest,
        *,
        principal: str,
        route: str,
        body: Mapping[str, object],
        wait_s: float,
        opening: AnswerOpening | None,
    ) -> None:
        """Take in a request that the engine is done with.

        Args:
            principal: holder of its key.
            body: body of the request; none of its text is kept.
            wait_s: seconds that it waited for its turn.
            opening: the beginning of the answer, where it was read.
        """
        now_s, today = self._clock(), self._today()
        today.is_written = False
        ref = request.target.ref
        today.usage.add(
            UsageKey(ref, principal, route),
            Used(
                1,
                int(request.end is End.FAILED),
                request.prompt_tokens,
                request.completion_tokens,
                request.latency_s,
                now_s,
            ),
        )
        if not self._settings.sketches:
            return
        question = question_of(body)
        said = opening.read() if opening is not None else None
        today.blocks.add(ref, _observation(request, question, wait_s, said), now_s)
        is_sample = opening is not None and opening.max_chars == MAX_SAMPLE_CHARS
        if is_sample and said is not None and request.end is End.ANSWERED:
            text, tokens = question[:MAX_SAMPLE_CHARS], request.completion_tokens
            today.samples.offer(LiveSample(ref, now_s, text, said.text, request.latency_s, tokens))

    def rated(self, ref: str, rating: float | None) -> None:
        """Take in a user's rating of an answer, 0 to 1; None, a correction alone, counts for nothing."""
        if rating is not None and self._settings.sketches:
            today = self._today()
            today.is_written = False
            today.blocks.rate(ref, rating, self._clock())

    async def keep(self) -> None:
        """Write the day's file now and then, for ever, and remove files that are old enough."""
        cleaned: dt.date | None = None
        while True:
            await asyncio.sleep(_WRITE_S)
            await self.write()
            today = self._today().day
            if cleaned != today:
                cleaned = today
                await asyncio.to_thread(self._remove_old, today)

    async def write(self) -> None:
        """Write new records; log a failure once, and try again with the next."""
        if self._clock() - self._wrote_s >= _AT_LEAST_S:
            self._today().is_written = False
        for day in [one for one in self._days if not one.is_written]:
            day.is_written, self._wrote_s = True, self._clock()
            end_s = min(self._clock(), _midnight_s(day.day + dt.timedelta(days=1)))
            values, blocks = (
                self._values(day, end_s),
                day.blocks.to_json(),
            )  # of one moment: nothing is counted meanwhile
            seconds = max(0.0, end_s - day.start_s)
            rows = ledger_rows(day.usage.rows, self._devices, seconds, self.application)
            try:
                await asyncio.to_thread(self._store, day, values, blocks)
                await asyncio.to_thread(write_page, self._home, day.day, self.replica, rows)
                self._trouble = ""
            except LlamaFarmError as error:
                day.is_written = False
                if self._trouble != str(error):
                    logger.warning("The journal could not be written: %s", error)
                self._trouble = str(error)
        self._days = [one for one in self._days[:-1] if not one.is_written][-1:] + self._days[-1:]

    def _store(self, day: _Day, values: Mapping[str, object], blocks: str) -> None:
        day.samples.redact()
        samples = day.samples.to_list()
        self._home.write(day_name(day.day, self.replica), page_bytes({**values, "samples": samples}, blocks))

    def _values(self, day: _Day, end_s: float) -> dict[str, object]:
        return {
            "application": self.application,
            "replica": self.replica,
            "start_s": round(day.start_s, 3),
            "end_s": round(end_s, 3),
            "num_cpus": self._devices.num_cpus,
            "num_gpus": self._devices.num_gpus,
            "usage": day.usage.to_dict(),
        }

    def _today(self) -> _Day:
        now_s = self._clock()
        day = dt.datetime.fromtimestamp(now_s, dt.UTC).date()
        if not self._days or self._days[-1].day < day:
            start_s = _midnight_s(day) if self._days else now_s
            self._days.append(_Day(day, start_s, Blocks(), UsageTable(), Reservoir(self._settings.sample_rate)))
        return self._days[-1]

    def _remove_old(self, today: dt.date) -> None:
        with contextlib.suppress(LlamaFarmError):  # the next day tries again
            remove_old(self._home, today - dt.timedelta(days=self._settings.keep_days))


def _midnight_s(day: dt.date) -> float:
    """Return when a day begins, seconds since 1970."""
    return dt.datetime.combine(day, dt.time(), dt.UTC).timestamp()


def _observation(request: FinishedRequest, question: str, wait_s: float, said: Opening | None) -> Observation:
    return Observation(
        end=request.end,
        latency_s=request.latency_s,
        wait_s=wait_s,
        prompt_tokens=request.prompt_tokens,
        answer_tokens=request.completion_tokens,
        language=language_of(question[:_MAX_LANGUAGE_CHARS]),
        signs=topic_signs(question),
        is_empty=None if said is None else said.is_empty,
        declines=None if said is None else is_refusal(said.text),
        answer_loss=None if said is None or said.mean_logprob is None else max(0.0, -said.mean_logprob),
    )
