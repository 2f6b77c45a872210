"""CORS and host checks: web pages in browsers on this network get nothing unless their origin is allowed.

A browser sends requests of any page to any server. A page of another origin can't read answers, or send JSON at all,
because its browser must ask first (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol) and is told no. A page that
makes its own name point at this server (DNS rebinding) is of the same origin and need not ask. Its requests carry that
name, so where no key is asked for, requests must carry one that no stranger's page can have.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Iterable

from starlette.middleware.cors import CORSMiddleware

from llamafarm_ray.serving.http.asgi import App, Header
from llamafarm_ray.serving.http.errors import HostError

__all__ = ["check_host", "for_web_pages", "may_read"]

_HOST = re.compile(r"(?P<name>[a-z0-9._-]+|\[(?P<ip>[0-9a-f:.]+)])(:\d+)?")
"""https://www.rfc-editor.org/rfc/rfc9110#section-7.2, in lower case."""
_PRIVATE = frozenset({"localhost", "local", "internal"})
"""Domains that the public DNS never has (RFC 6761, RFC 6762, ICANN's reservation of 2024), which Ollama lets in too."""
_SHOWN = (
    "x-llamafarm-model",
    "x-llamafarm-digest",
    "x-llamafarm-variant",
    "x-llamafarm-request-id",
    "retry-after",
)
"""The response headers that a page may read."""


def check_host(headers: Iterable[Header], allowed: Collection[str]) -> None:
    """Refuse a request that a stranger's page could have sent under a name of its own.

    Addresses, this machine's name and those that the public DNS can't have, one without a dot among them, belong to no
    one else. A request without the header is no browser's.

    Args:
        headers: the request's, names in lower case.
        allowed: further names, in lower case; ``*`` is every one.

    Raises:
        HostError: its ``Host`` is another name.
    """
    told = next((value.decode("latin-1").lower() for name, value in headers if name == b"host"), None)
    if told is None or "*" in allowed:
        return
    found = _HOST.fullmatch(told)
    name = (found["ip"] or found["name"]).removesuffix(".") if found else ""
    if not (_is_private(name) or name in allowed or name == socket.gethostname().lower()):
        raise HostError(
            f"The server answers without a key, and does not go by the name {told[:120]!r}.",
            hint="List the name in deployment.allowed_hosts, or ask for keys (deployment.require_key).",
        )


def for_web_pages(app: App, origins: Collection[str]) -> App:
    """The app as pages of these origins may use it, with a key if one is asked for.

    Args:
        origins: such as ``https://chat.example.com``; ``*`` is every one.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),  # OpenAI's own client sends a dozen
        expose_headers=_SHOWN,
    )


def may_read(headers: Iterable[Header], origins: Collection[str]) -> bool:
    """Return True if the sender of a request may read the answers of an app that allows these origins.

    Without the header ``Origin`` it is no page; and a page of this very server needs no leave.

    Args:
        headers: the request's, names in lower case.
        origins: as :func:`for_web_pages` takes them.
    """
    told = dict(headers)
    origin = told.get(b"origin")
    if origin is None or "*" in origins or origin.decode("latin-1") in origins:
        return True
    return origin.partition(b"://")[2] == told.get(b"host")


def _is_private(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        parts = name.split(".")
        return bool(name) and (len(parts) == 1 or parts[-1] in _PRIVATE)
    return True
