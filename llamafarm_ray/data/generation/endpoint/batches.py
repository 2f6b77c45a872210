"""Batch APIs in OpenAI's form: many requests in one file, answered within a day at a lower price.

A file of requests is uploaded, a batch is created from it, and polled until its files of answers and errors can be
fetched. Each request is known by its key in the cache. Source: https://platform.openai.com/docs/guides/batch.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from llamafarm_ray.data.generation.endpoint.cache import Answer
from llamafarm_ray.data.generation.endpoint.client import Client, RefusedError, all_of, answer_in, most_tokens
from llamafarm_ray.errors import InfrastructureError, InputError, NotFoundError
from llamafarm_ray.storage import Location

__all__ = ["BatchTerms", "answers_by_batch"]

MAX_REQUESTS = 20_000
MAX_BYTES = 100 * 1024 * 1024
"""Half of what providers take in one file, or less."""

_WINDOW = "24h"
_MARK = "llamafarm"
_LISTED = 100
_RUNNING = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_ENDED = frozenset({"completed", "expired", "cancelled"})
_LEARNABLE = frozenset({400, 422})
_SHOWN_ERRORS = 3

Requests = Mapping[str, Mapping[str, object]]
"""Requests for chat completions by their keys."""


@dataclass(frozen=True, slots=True)
class BatchTerms:
    """Settings of batches.

    Args:
        records: folder or URI where the ids of batches are kept, so that a build that was killed goes on with them.
        price_factor: price of a request in a batch, in parts of the usual one.
        first_poll_s: wait before a batch is asked for its state a second time; each further one is half as long again.
    """

    records: str
    price_factor: float = 0.5
    first_poll_s: float = 2.0
    longest_poll_s: float = 60.0


async def answers_by_batch(client: Client, requests: Requests, terms: BatchTerms) -> dict[str, Answer]:
    """Return the answers to requests by their keys. Those that failed, or were not done in time, are missing.

    Batches that an earlier attempt created for the same requests are not created again.

    Raises:
        InputError: the server has no batch API, or takes no batch with these requests; or the cost could pass the
            limit. See `Client.call` for other errors.
    """
    results = await all_of(_Job(client, part, terms).answers() for part in _parts(requests))
    return {key: answer for result in results for key, answer in result.items()}


def _parts(requests: Requests) -> Iterator[dict[str, Mapping[str, object]]]:
    """Yield requests in parts that fit into a file."""
    part: dict[str, Mapping[str, object]] = {}
    num_bytes = 0
    for key in sorted(requests):
        size = len(_line(key, requests[key]))
        if part and (len(part) >= MAX_REQUESTS or num_bytes + size > MAX_BYTES):
            yield part
            part, num_bytes = {}, 0
        part[key] = requests[key]
        num_bytes += size
    if part:
        yield part


def _line(key: str, body: Mapping[str, object]) -> bytes:
    said = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(said).encode() + b"\n"


@dataclass
class _Job:
    """One batch."""

    client: Client
    requests: Requests
    terms: BatchTerms
    _sent: dict[str, dict[str, object]] = field(default_factory=dict)

    async def answers(self) -> dict[str, Answer]:
        """Create the batch, or find it, wait for its end, and return its answers."""
        budget = self.client.terms.budget
        reserved = [
            budget.reserve(*most_tokens(body), price_factor=self.terms.price_factor) for body in self.requests.values()
        ]
        answers: dict[str, Answer] = {}
        try:
            self._sent = {key: self.client.terms.dialect.adapt(dict(body)) for key, body in self.requests.items()}
            batch = await self._ended(await self._found() or await self._created())
            for name in ("output_file_id", "error_file_id"):
                if batch.get(name):
                    answers |= await self._read(str(batch[name]))
            return answers
        finally:
            for part in reserved:
                budget.settle(part, 0, 0)
            for answer in answers.values():
                budget.settle(0.0, answer.input_tokens, answer.output_tokens, price_factor=self.terms.price_factor)

    @property
    def _key(self) -> str:
        """Digest of all requests in the form in which they are sent."""
        lines = b"".join(_line(key, self._sent[key]) for key in sorted(self._sent))
        return hashlib.sha256(lines).hexdigest()

    @property
    def _record(self) -> str:
        return f"batches/{self._key}.json"

    async def _found(self) -> dict[str, Any] | None:
        """Return the batch of an earlier attempt: by its record, or by its mark if the attempt died before that."""
        location = Location(self.terms.records)
        try:
            known = json.loads(await asyncio.to_thread(location.read, self._record))
            return await self._state(str(known["id"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError, NotFoundError, RefusedError):
            pass
        try:
            listed = _json(await self.client.call("GET", f"/batches?limit={_LISTED}")).get("data") or []
        except (NotFoundError, RefusedError):
            return None
        marked = [batch for batch in listed if isinstance(batch, dict) and (batch.get("metadata") or {}).get(_MARK)]
        for batch in marked:
            if batch["metadata"][_MARK] == self._key and batch.get("status") in _RUNNING | _ENDED:
                await self._keep(batch)
                return dict(batch)
        return None

    async def _created(self) -> dict[str, object]:
        """Upload the requests and create a batch of them."""
        lines = b"".join(_line(key, self._sent[key]) for key in sorted(self._sent))
        try:
            files = {"file": ("requests.jsonl", lines, "application/jsonl")}
            uploaded = _json(await self.client.call("POST", "/files", data={"purpose": "batch"}, files=files))
            asked = {
                "input_file_id": uploaded.get("id"),
                "endpoint": "/v1/chat/completions",
                "completion_window": _WINDOW,
                "metadata": {_MARK: self._key},
            }
            # A batch whose creation seems to have failed may exist: it is looked for before it is created again.
            response = await self.client.call("POST", "/batches", json=asked, is_done=self._found_response)
        except NotFoundError as error:
            raise InputError(
                f"The endpoint {self.client.terms.base_url} has no batch API ({error.message}).",
                hint="Set dataset.preprocessing.qa_generation.endpoint.batch to false.",
            ) from error
        except RefusedError as error:
            raise InputError(
                f"The endpoint {self.client.terms.base_url} takes no batch ({error}).",
                hint="Set dataset.preprocessing.qa_generation.endpoint.batch to false.",
            ) from error
        batch = _json(response)
        await self._keep(batch)
        return batch

    async def _found_response(self) -> httpx.Response | None:
        batch = await self._found()
        return None if batch is None else httpx.Response(httpx.codes.OK, json=batch)

    async def _keep(self, batch: Mapping[str, object]) -> None:
        record = json.dumps({"id": batch["id"]}).encode()
        await asyncio.to_thread(Location(self.terms.records).write, self._record, record)

    async def _state(self, batch_id: str) -> dict[str, Any]:
        return _json(await self.client.call("GET", f"/batches/{batch_id}"))

    async def _ended(self, batch: dict[str, Any]) -> dict[str, object]:
        """Wait until a batch has ended.

        Raises:
            InputError: the server takes no batch with these requests.
        """
        wait_s = self.terms.first_poll_s
        while batch.get("status") in _RUNNING:
            await asyncio.sleep(wait_s)
            wait_s = min(self.terms.longest_poll_s, wait_s * 1.5)
            batch = await self._state(str(batch["id"]))
        if batch.get("status") in _ENDED:
            return batch
        await asyncio.to_thread(Location(self.terms.records).remove, self._record)
        problems = (batch.get("errors") or {}).get("data") or []
        said = "; ".join(str(one.get("message")) for one in problems[:_SHOWN_ERRORS] if isinstance(one, dict))
        raise InputError(
            f"The batch {batch.get('id')} of the endpoint {self.client.terms.base_url} has the status "
            f"{batch.get('status')!r} ({said or 'no reason is given'}).",
            hint="Run it again, or set dataset.preprocessing.qa_generation.endpoint.batch to false.",
        )

    async def _read(self, file_id: str) -> dict[str, Answer]:
        """Return the good answers of a file of results; from the others the form of requests is learnt."""
        response = await self.client.call("GET", f"/files/{file_id}/content", follow_redirects=True)
        answers: dict[str, Answer] = {}
        for line in response.content.split(b"\n"):
            try:
                result = json.loads(line)
                key, answered = result["custom_id"], result["response"]
                status, body = answered["status_code"], answered["body"]
            except (ValueError, KeyError, TypeError):
                continue  # a damaged line, or a request without an answer: it is asked for again
            if key not in self.requests:
                continue
            if status == httpx.codes.OK:
                answer = answer_in(body, self.requests[key])
                answers |= {key: answer} if answer is not None else {}
            elif status in _LEARNABLE:
                self.client.terms.dialect.learn(self._sent[key], json.dumps(body))
        return answers


def _json(response: httpx.Response) -> dict[str, Any]:
    """Return the object in a response.

    Raises:
        InfrastructureError: it holds none.
    """
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InfrastructureError(f"The endpoint answers {response.text[:200]!r}, which is no JSON object.")
    return found
