"""Client for agents: choose a deployed model by task, quality and speed.

::

    from llamafarm_ray.client import select_model

    chosen = select_model(task="summarization", max_latency_ms=800, min_quality=0.8)
    openai.OpenAI(base_url=chosen.base_url, api_key=key).chat.completions.create(model=chosen.model, messages=...)

It needs neither Ray nor torch, only the network: it asks the endpoints themselves, which report the registry's facts
about their models and their recent latencies. A request for the model ``auto`` has one endpoint do the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
from pydantic import TypeAdapter, ValidationError

from llamafarm_ray.errors import AccessDeniedError, ClusterError, InputError, LlamaFarmError
from llamafarm_ray.serving.selection.model_selection import (
    CARD_FIELD,
    LeftOut,
    NoModelFitsError,
    Offer,
    Selection,
    Wanted,
    select,
)

__all__ = ["LeftOut", "NoModelFitsError", "Offer", "Selection", "select_model", "select_model_async"]

_TIMEOUT_S = 10.0
_VERSION = "/v1"
"""Path of an application's OpenAI-compatible root."""
_Answer = httpx.Response | httpx.HTTPError
_OFFER = TypeAdapter(Offer)
_CARDS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
_ROUTES: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])


def select_model(
    *,
    task: str | None = None,
    max_latency_ms: float | None = None,
    min_quality: float | None = None,
    max_memory_bytes: float | None = None,
    url: str | Iterable[str] | None = None,
    key: str | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> Selection:
    """Choose the best deployed model that meets all limits.

    The best has the highest quality; of those the lowest latency, or one up to 1.5 times it; of those it needs the
    least memory. The candidates are base models, and the version that each model's ``production`` alias points at.

    Args:
        task: required capability: one that the model was registered with, such as ``summarization``, or ``chat``,
            ``completions`` or ``embeddings``, which models without registered capabilities have.
        max_latency_ms: the most that the 95th percentile of its latency may be, in milliseconds, without the time in a
            queue; over its last 200 answers at each replica. Of a model that has answered nothing yet it is that of the
            others in its application.
        min_quality: the least that its recorded evaluation must say, 0 to 1.
        max_memory_bytes: the most memory that it may need: what it was registered with, else the size of its files and
            its base's.
        url: address to search: the root of a cluster, such as ``http://127.0.0.1:8000``, for all of its applications,
            or of one application, such as ``http://127.0.0.1:8000/v1``; or several. By default ``$OPENAI_BASE_URL``.
        key: proves who asks; by default ``$OPENAI_API_KEY``.
        timeout_s: longest time for each of the endpoint's answers.

    Raises:
        NoModelFitsError: no model meets all limits; the message names the limit that no model meets, and the nearest
            value.
        InputError: a limit or an address is malformed, or there is no address.
        AccessDeniedError: every application refuses the key.
        ClusterError: no application answers.
    """
    wanted = Wanted(
        task=task, max_latency_ms=max_latency_ms, min_quality=min_quality, max_memory_bytes=max_memory_bytes
    )
    choosing = _choosing(wanted, _roots(url))
    with httpx.Client(headers=_headers(key), timeout=timeout_s) as client:
        asked = next(choosing)
        try:
            while True:
                asked = choosing.send([_get(client, one) for one in asked])
        except StopIteration as end:
            return cast("Selection", end.value)


async def select_model_async(
    *,
    task: str | None = None,
    max_latency_ms: float | None = None,
    min_quality: float | None = None,
    max_memory_bytes: float | None = None,
    url: str | Iterable[str] | None = None,
    key: str | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> Selection:
    """Choose as :func:`select_model` does; all applications are asked at once."""
    wanted = Wanted(
        task=task, max_latency_ms=max_latency_ms, min_quality=min_quality, max_memory_bytes=max_memory_bytes
    )
    choosing = _choosing(wanted, _roots(url))
    async with httpx.AsyncClient(headers=_headers(key), timeout=timeout_s) as client:
        asked = next(choosing)
        try:
            while True:
                asked = choosing.send(await asyncio.gather(*(_get_async(client, one) for one in asked)))
        except StopIteration as end:
            return cast("Selection", end.value)


def _choosing(wanted: Wanted, roots: Sequence[str]) -> Generator[list[str], list[_Answer], Selection]:
    """Choose without input and output: yield addresses to get, take their answers, and return the choice."""
    clusters = [root for root in roots if not root.endswith(_VERSION)]
    routes = yield [f"{root}/-/routes" for root in clusters]
    found = {root: _base_urls(root, answer) for root, answer in zip(clusters, routes, strict=True)}
    base_urls = list(dict.fromkeys(one for root in roots for one in found.get(root, [root])))
    if not base_urls:
        raise ClusterError(f"No application is deployed at {', '.join(roots)}.", hint="`llamafarm models deploy`.")
    answers = yield [f"{base_url}/models" for base_url in base_urls]
    offers: list[Offer] = []
    errors: list[LlamaFarmError] = []
    silent: list[LeftOut] = []
    for base_url, answer in zip(base_urls, answers, strict=True):
        try:
            offers += _offers(base_url, answer)
        except LlamaFarmError as error:
            errors.append(error)
            silent.append(LeftOut("", base_url, error.message))
    if len(errors) == len(base_urls):
        raise errors[0]
    try:
        chosen = select(offers, wanted)
    except NoModelFitsError as error:
        error.left_out += tuple(silent)
        raise
    return replace(chosen, left_out=(*chosen.left_out, *silent))


def _base_urls(root: str, answer: _Answer) -> list[str]:
    """The applications at a cluster's root; what hides Ray Serve's list of them is taken for one."""
    if isinstance(answer, httpx.Response) and answer.is_success:
        with contextlib.suppress(ValidationError):
            prefixes = sorted(_ROUTES.validate_json(answer.content))
            return [f"{root}{prefix.rstrip('/')}{_VERSION}" for prefix in prefixes if prefix.startswith("/")]
    return [root + _VERSION]


def _offers(base_url: str, answer: _Answer) -> list[Offer]:
    """Return an application's catalog of the models that requests may name.

    Raises:
        AccessDeniedError: it refuses the key.
        ClusterError: it does not answer, or is none of this package's.
    """
    if isinstance(answer, httpx.HTTPError):
        raise ClusterError(f"Nothing answers at {base_url} ({type(answer).__name__}).", hint="Is it deployed?")
    if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise AccessDeniedError(f"{base_url} refuses the key.", hint="Set OPENAI_API_KEY to yours.")
    if not answer.is_success:
        raise ClusterError(f"{base_url} answers {answer.status_code}.")
    try:
        cards = _CARDS.validate_json(answer.content)["data"]
        if cards and not any(CARD_FIELD in card for card in cards):
            raise ClusterError(f"{base_url} does not describe its models.", hint="Is it another kind of server?")
        described = [{**card[CARD_FIELD], "model": card["id"]} for card in cards if CARD_FIELD in card]
        offers = [_OFFER.validate_python({**one, "base_url": base_url}) for one in described]
    except (ValidationError, KeyError, TypeError):
        raise ClusterError(f"What {base_url} says of its models can't be read.") from None
    # Of a model's names the one without a version or an alias.
    return [offer for offer in offers if offer.model == offer.version.partition(":")[0]]


def _get(client: httpx.Client, url: str) -> _Answer:
    try:
        return client.get(url)
    except httpx.HTTPError as error:
        return error


async def _get_async(client: httpx.AsyncClient, url: str) -> _Answer:
    try:
        return await client.get(url)
    except httpx.HTTPError as error:
        return error


def _roots(url: str | Iterable[str] | None) -> list[str]:
    given = url if url is not None else os.environ.get("OPENAI_BASE_URL")
    if not given:
        raise InputError("There is no address to look at.", hint="Pass url, or set OPENAI_BASE_URL.")
    roots = [given] if isinstance(given, str) else list(given)
    for root in roots:
        parts = urlsplit(root)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
            raise InputError(f"{root[:200]!r} is no address.", hint="Write it like http://127.0.0.1:8000/v1.")
    return [root.rstrip("/") for root in roots]


def _headers(key: str | None) -> dict[str, str]:
    token = key or os.environ.get("OPENAI_API_KEY")
    return {"Authorization": f"Bearer {token}"} if token else {}
