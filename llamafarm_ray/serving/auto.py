"""Requests for the model ``auto``: what their route and headers ask for, and the name that is chosen for them.

It is the gate that chooses and not the router: the router gets neither the key, which says what may be used, nor the
headers with the limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from llamafarm_ray.errors import InputError
from llamafarm_ray.serving.access import Tenant
from llamafarm_ray.serving.asgi import Header
from llamafarm_ray.serving.selection import AUTO, Offer, Wanted, select

__all__ = ["LIMIT_HEADERS", "choose", "refuse_limits"]

_TASK: Final = b"x-llamafarm-task"
_MAX_LATENCY: Final = b"x-llamafarm-max-latency-ms"
_MIN_QUALITY: Final = b"x-llamafarm-min-quality"
LIMIT_HEADERS: Final = frozenset({_TASK, _MAX_LATENCY, _MIN_QUALITY})
"""The request headers that say what is wanted of ``auto``, in lower case."""
_KINDS: Final[Mapping[str, str]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}


def choose(offers: Iterable[Offer], tenant: Tenant, path: str, headers: Iterable[Header]) -> str:
    """The name of the model that answers a request for ``auto``.

    Args:
        offers: what there is to choose from.
        tenant: who asks; what the key may not use is not looked at.
        path: the request's route, which says what kind of answer it is for.
        headers: of the request.

    Raises:
        InputError: a header is malformed.
        NoModelFitsError: no model meets all that is asked.
    """
    given = {name.lower(): value.decode("latin-1").strip() for name, value in headers if name.lower() in LIMIT_HEADERS}
    wanted = Wanted(
        kind=_KINDS.get(path),
        task=given.get(_TASK) or None,
        max_latency_ms=_number(given, _MAX_LATENCY),
        min_quality=_number(given, _MIN_QUALITY),
    )
    return select((offer for offer in offers if tenant.may_use(offer.model)), wanted).model


def refuse_limits(headers: Iterable[Header]) -> None:
    """Refuse headers that would have no effect, because the request names its model.

    Raises:
        InputError: there is one.
    """
    for name, _ in headers:
        if name.lower() in LIMIT_HEADERS:
            raise InputError(
                f"The header {name.lower().decode()} is for the model {AUTO!r}, and the request names another."
            )


def _number(given: Mapping[bytes, str], name: bytes) -> float | None:
    if name not in given:
        return None
    try:
        return float(given[name])
    except ValueError:
        raise InputError(f"The header {name.decode()} is {given[name][:40]!r}, which is no number.") from None
