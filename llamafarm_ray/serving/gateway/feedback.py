"""Feedback of users on answers: stored as training data below the registry's home, acknowledged once durable.

Each batch is one new object, ``feedback/2026/11/22/<time>-<random>.jsonl``, a record a line, made by exclusive create.
:class:`llamafarm_ray.data.feedback.Feedback` reads the records.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import secrets
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llamafarm_ray.errors import InputError, StorageError
from llamafarm_ray.serving.http.errors import LimitError
from llamafarm_ray.serving.routing.resolution import Target
from llamafarm_ray.storage import Location
from llamafarm_ray.types import FEEDBACK_FOLDER

__all__ = ["FeedbackLog", "FeedbackRequest", "feedback_record"]

_MAX_BATCH_BYTES = 1024 * 1024
_MAX_PENDING_BYTES = 64 * 1024 * 1024


class _Turn(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=1_000_000)


class FeedbackRequest(BaseModel):
    """The body of ``POST /v1/feedback``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: str = Field(description="The response's own `model`, or its header x-llamafarm-model: it names a version.")
    response_id: str | None = Field(default=None, max_length=256, description="The response's `id`.")
    messages: list[_Turn] = Field(min_length=1, max_length=10_000, description="The conversation up to the question.")
    answer: str | None = Field(default=None, min_length=1, max_length=1_000_000, description="What the model wrote.")
    rating: float | None = Field(default=None, ge=0, le=1, description="How good it was: 0 is bad, 1 is good.")
    thumb: Literal["up", "down"] | None = Field(default=None, description="Short for a rating of 1 or 0.")
    correction: str | None = Field(default=None, max_length=1_000_000, description="What it should have written.")
    chosen: str | None = Field(default=None, max_length=1_000_000, description="The better of two answers.")
    rejected: str | None = Field(default=None, max_length=1_000_000, description="The other answer.")
    comment: str | None = Field(default=None, max_length=10_000, description="For people to read.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.chosen is not None or self.rejected is not None:
            self._check_preference()
            return self
        if self.answer is None:
            raise ValueError("give an 'answer', or 'chosen' and 'rejected'")
        if self.rating is not None and self.thumb is not None:
            raise ValueError("give 'rating' or 'thumb', not both")
        if self.rating is None and self.thumb is None and not (self.correction or "").strip():
            raise ValueError("give a 'rating', a 'thumb' or a 'correction'")
        return self

    def _check_preference(self) -> None:
        """Check a choice between two answers, which says nothing about one of them alone."""
        if not (self.chosen or "").strip() or not (self.rejected or "").strip():
            raise ValueError("give both 'chosen' and 'rejected'")
        if self.chosen == self.rejected:
            raise ValueError("'chosen' and 'rejected' are the same answer")
        if any(value is not None for value in (self.answer, self.rating, self.thumb, self.correction)):
            raise ValueError("give 'answer' with its judgement, or 'chosen' and 'rejected', not both")

    @property
    def score(self) -> float | None:
        """The rating, 0 to 1; None where there is only a correction or a preference."""
        return self.rating if self.thumb is None else float(self.thumb == "up")

    @classmethod
    def of(cls, body: Mapping[str, object]) -> Self:
        """Read a request's body.

        Raises:
            InputError: a field is missing or wrong; the message says which, and never what it holds.
        """
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the body"
            raise InputError(f"{where[:80]}: {first['msg']}.", hint="See docs/http-api.md.") from None


def feedback_record(said: FeedbackRequest, target: Target, principal: str) -> dict[str, object]:
    """Return the record of a piece of feedback: its content, version, author and time.

    Raises:
        InputError: the model is named by an alias, which may point elsewhere since.
    """
    if said.model.partition("#")[0] != target.ref:
        raise InputError(
            f"{said.model!r} does not say which version answered.",
            hint=f"Send the response's own 'model', such as {target.engine_name}.",
        )
    return {
        "id": uuid.uuid4().hex,
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
        "principal": principal,
        "version": target.ref,
        "digest": target.digest,
        **said.model_dump(exclude={"model"}, exclude_none=True),
    }


class _Batch:
    """Records that are written together, by ``writing``."""

    def __init__(self, write: Callable[[_Batch], Coroutine[object, None, None]]) -> None:
        self.lines: list[bytes] = []
        self.size_bytes = 0
        self.is_full = asyncio.Event()
        self.writing = asyncio.create_task(write(self))


class FeedbackLog:
    """Collects records into batches and writes these, one after the other.

    Args:
        linger_s: seconds that the first record of a batch waits for others.
        max_pending_bytes: greatest number of bytes that wait to be written; more are refused.
    """

    def __init__(self, home: Location, *, linger_s: float = 0.2, max_pending_bytes: int = _MAX_PENDING_BYTES) -> None:
        self._home = home
        self._linger_s = linger_s
        self._max_pending_bytes = max_pending_bytes
        self._num_pending_bytes = 0
        self._open: _Batch | None = None
        self._last: asyncio.Task[None] | None = None

    async def add(self, record: Mapping[str, object]) -> None:
        """Keep a record. Once this returns it is durable.

        Raises:
            StorageError: it could not be written; sending it again is right.
            LimitError: too much waits to be written.
        """
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        if self._num_pending_bytes + len(line) > self._max_pending_bytes:
            raise LimitError("Too much feedback waits to be written.", retry_after_s=1.0, hint="Send it again later.")
        batch = self._open = self._open or _Batch(self._write)
        batch.lines.append(line)
        batch.size_bytes += len(line)
        self._num_pending_bytes += len(line)
        if batch.size_bytes >= _MAX_BATCH_BYTES:
            batch.is_full.set()
        await asyncio.shield(batch.writing)  # a client that goes away takes nothing back

    async def close(self) -> None:
        """Write what waits, now."""
        if self._open is not None:
            self._open.is_full.set()
            await asyncio.wait({self._open.writing})
        elif self._last is not None:
            await asyncio.wait({self._last})

    async def _write(self, batch: _Batch) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._linger_s):
                await batch.is_full.wait()
        if self._last is not None and not self._last.done():  # what comes meanwhile joins this batch
            await asyncio.wait({self._last})
        self._open, self._last = None, batch.writing
        try:
            await asyncio.to_thread(self._create, _name(), b"".join(batch.lines))
        finally:
            self._num_pending_bytes -= batch.size_bytes

    def _create(self, name: str, data: bytes) -> None:
        try:
            self._home.create(name, data)
        except FileExistsError:  # nobody else chose this name: the store had it, and its answer was lost
            if self._home.read(name) != data:
                raise StorageError(f"{self._home.uri}/{name} is taken.", hint="Send it again.") from None


def _name() -> str:
    """Return a unique name that sorts by time."""
    now = dt.datetime.now(dt.UTC)
    return f"{FEEDBACK_FOLDER}/{now:%Y/%m/%d}/{now:%H%M%S%f}-{secrets.token_hex(6)}.jsonl"
