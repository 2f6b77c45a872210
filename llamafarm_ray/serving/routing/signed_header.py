"""Signed header with the router's decision for a replica; clients can send headers, but can't sign them.

HAProxy strips that header from what clients send, but only while the application has a router that runs.
"""

from __future__ import annotations

import hmac

from llamafarm_ray.serving.http.asgi import App, Receive, Scope, Send

__all__ = ["ROUTED_HEADER", "HeaderSigner", "VerifiedHeader"]

ROUTED_HEADER = b"serve_multiplexed_model_id"
"""Header that carries a router's decision from the proxy to a replica."""

_MAC_LENGTH = 32
"""Hexadecimal digits: 128 bits."""


class HeaderSigner:
    """Signer of a router's decisions, by a secret that only the router and its replicas have.

    Args:
        secret: made for each deployment; empty where there is no router, and nothing is believed.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def close(self, decision: str) -> str:
        """The header's value for a decision."""
        return self._mac(decision) + decision

    def open(self, value: str) -> str | None:
        """Return the decision in a header's value; ``None`` if its signature is wrong."""
        mac, decision = value[:_MAC_LENGTH], value[_MAC_LENGTH:]
        if not self._secret or not hmac.compare_digest(mac.encode(), self._mac(decision).encode()):
            return None
        return decision

    def _mac(self, decision: str) -> str:
        return hmac.new(self._secret, decision.encode(), "sha256").hexdigest()[:_MAC_LENGTH]


class VerifiedHeader:
    """ASGI middleware that passes on a router's decision without its seal, and drops unsigned ones."""

    def __init__(self, app: App, seal: HeaderSigner) -> None:
        self._app = app
        self._seal = seal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "http":
            headers = []
            for name, value in scope["headers"]:
                if name.lower() == ROUTED_HEADER:
                    decision = self._seal.open(value.decode("latin-1"))
                    headers += [(name, decision.encode("latin-1"))] if decision is not None else []
                else:
                    headers.append((name, value))
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)
