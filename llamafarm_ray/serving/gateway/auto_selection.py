"""Requests for the model ``auto``: the task by their route and headers, and the chosen name.

It is the gateway that chooses and not the router: the router gets neither the key, which says what may be used, nor the
headers with the limits. Answers of another application of the cluster are not fetched from there: the client is told to
ask it, which costs it one round trip, and this replica nothing while the answer is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final

from llamafarm_ray.errors import InputError
from llamafarm_ray.serving.gateway.auth import Tenant
from llamafarm_ray.serving.http.asgi import Header, Send, answer
from llamafarm_ray.serving.selection.model_selection import Offer, Selection, Wanted, select
from llamafarm_ray.types import AUTO_MODEL

__all__ = ["AUTO_ROUTES", "LIMIT_HEADERS", "choose", "is_to_stay", "kind_of", "refuse_limits", "send_on"]

_TASK: Final = b"x-llamafarm-task"
_MAX_LATENCY: Final = b"x-llamafarm-max-latency-ms"
_MIN_QUALITY: Final = b"x-llamafarm-min-quality"
_MAX_MEMORY: Final = b"x-llamafarm-max-memory-bytes"
LIMIT_HEADERS: Final = frozenset({_TASK, _MAX_LATENCY, _MIN_QUALITY, _MAX_MEMORY})
"""The request headers that say what is wanted of ``auto``, in lower case."""
_KINDS: Final[Mapping[str, str]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}
AUTO_ROUTES: Final = frozenset(_KINDS)
"""The routes at which ``auto`` may be asked for whatever the application's engine answers: another one may."""
_QUERY: Final = b"auto"
_WITHIN: Final = b"auto=within"
"""The query of a request that another application's gateway sent here, or whose client wants it to stay.

It stays: no two of them send it to and fro."""


def choose(offers: Iterable[Offer], tenant: Tenant, kind: str, headers: Iterable[Header]) -> Selection:
    """The model that answers a request for ``auto``.

    Args:
        tenant: sender of the request; models that the key may not use are left out.
        kind: the kind of answer that the request is for, see :func:`kind_of`.

    Raises:
        InputError: a header is malformed.
        NoModelFitsError: no model meets all that is asked.
    """
    given = {name.lower(): value.decode("latin-1").strip() for name, value in headers if name.lower() in LIMIT_HEADERS}
    wanted = Wanted(
        kind=kind,
        task=given.get(_TASK) or None,
        max_latency_ms=_number(given, _MAX_LATENCY),
        min_quality=_number(given, _MIN_QUALITY),
        max_memory_bytes=_number(given, _MAX_MEMORY),
    )
    return select((offer for offer in offers if tenant.may_use(offer.model)), wanted)


def kind_of(path: str, body: Mapping[str, object]) -> str:
    """The kind of answer that a request is for (:attr:`~llamafarm_ray.serving.selection.model_selection.Wanted.kind`).

    One that only counts tokens counts those of the chat, or of the completion, that would be asked for.
    """
    return _KINDS.get(path) or ("chat" if "messages" in body else "completions")


def is_to_stay(query: bytes) -> bool:
    """Return True if a request for ``auto`` must be answered within the application that it came to.

    Args:
        query: the request's; what else it says counts for nothing.

    Raises:
        InputError: it says of ``auto`` what no gateway writes.
    """
    said = _said(query)
    if said not in ([], [_WITHIN]):
        raise InputError(
            f"The query says {b'&'.join(said)[:80].decode('latin-1')!r}; there is {_WITHIN.decode()!r} only."
        )
    return bool(said)


async def send_on(send: Send, path: str, chosen: Selection) -> None:
    """Answer that another application is to be asked, as every OpenAI client does by itself (RFC 9110, 15.4.8).

    The location is a path: whatever name, port and TLS the client came by, it goes by again, and so does its key.

    Args:
        path: the request's route, without its application's prefix.
        chosen: entry of the other application's model.
    """
    root = chosen.base_url.removesuffix("/v1")
    told = {
        "message": f"{chosen.version} is served at {chosen.base_url}, where this request is to be sent.",
        "type": "redirect",
        "param": None,
        "code": "served_elsewhere",
    }
    headers = [
        (b"location", f"{root}{path}?{_WITHIN.decode()}".encode()),
        (b"x-llamafarm-model", chosen.version.encode()),
    ]
    await answer(send, HTTPStatus.TEMPORARY_REDIRECT, {"error": told}, headers)


def refuse_limits(headers: Iterable[Header], query: bytes) -> None:
    """Refuse headers, and the query, that would have no effect, because the request names its model.

    Raises:
        InputError: there is one.
    """
    if _said(query):
        raise InputError(
            f"The query {_WITHIN.decode()!r} is for the model {AUTO_MODEL!r}, and the request names another.",
            hint="Leave it out.",
        )
    for name, _ in headers:
        if name.lower() in LIMIT_HEADERS:
            raise InputError(
                f"The header {name.lower().decode()} is for the model {AUTO_MODEL!r}, and the request names another."
            )


def _said(query: bytes) -> list[bytes]:
    """Return the parts of a query that concern ``auto``."""
    return [part for part in query.split(b"&") if part.partition(b"=")[0] == _QUERY]


def _number(given: Mapping[bytes, str], name: bytes) -> float | None:
    if name not in given:
        return None
    try:
        return float(given[name])
    except ValueError:
        raise InputError(f"The header {name.decode()} is {given[name][:40]!r}, which is no number.") from None
