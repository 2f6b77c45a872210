"""Spans of requests and loads, for OpenTelemetry where an endpoint is configured; otherwise nothing is recorded.

Spans are made and sent by :mod:`.otlp`, which is imported only then. This module has all of the API that the rest of a
replica uses.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from llamafarm_ray.serving.http.asgi import Scope
from llamafarm_ray.serving.routing.resolution import Target
from llamafarm_ray.serving.telemetry.outcome import FinishedRequest
from llamafarm_ray.telemetry.traces import PROTOCOL, is_grpc, protocol

__all__ = ["Span", "Tracing", "open_tracing", "tracing_environment"]


class Span:
    """Span of a request; this one records nothing."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        """The request's, with the span as the parent of the engine's spans."""

    def asked(self, body: Mapping[str, object]) -> None:
        """Take in the body that the client sent, once it is known to be sound."""

    def resolved(self, target: Target) -> None:
        """Take in which version is meant."""

    def sent_on(self, version: str) -> None:
        """Take in that another application is to answer, with this version."""

    def began(self) -> None:
        """Take in that it is the request's turn at the engine, and that its version is loaded."""

    def finished(self, request: FinishedRequest) -> None:
        """Take in how it went."""


class Tracing:
    """Tracer of a replica; this one drops its spans."""

    @contextmanager
    def request(self, scope: Scope) -> Iterator[Span]:
        """Trace what happens to a request inside the block.

        Args:
            scope: of the request; a ``traceparent`` header in it names the trace that it belongs to.
        """
        yield Span(scope)

    def step(self, name: str, target: Target | None = None) -> AbstractContextManager[None]:
        """Trace what happens inside the block, as part of the request that waits for it, if any does."""
        return _nothing(name, target)

    async def close(self) -> None:
        """Send the pending spans, for two seconds at most."""


@contextmanager
def _nothing(_name: str, _target: Target | None) -> Iterator[None]:
    yield


def open_tracing(endpoint: str | None, *, log_prompts: bool = False) -> Tracing:
    """Return a tracer for an endpoint; without an endpoint one that drops its spans.

    Args:
        endpoint: the collector's URL, see :func:`llamafarm_ray.telemetry.traces.traces_endpoint`; ``None``: nowhere.
        log_prompts: True if prompts are part of spans.
    """
    if endpoint is None:
        return Tracing()
    from llamafarm_ray.serving.telemetry.otlp import OtlpTracing  # a second of imports

    return OtlpTracing(endpoint, log_prompts=log_prompts, grpc=is_grpc(os.environ))


def tracing_environment(endpoint: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of replicas that trace, so that vLLM's spans go to the same endpoint.

    Args:
        endpoint: URL of the endpoint; without one the result is empty.
    """
    if endpoint is None:
        return {}
    return {
        PROTOCOL: protocol(environment),  # vLLM's own default is another than OpenTelemetry's
        "OTEL_SERVICE_NAME": environment.get("OTEL_SERVICE_NAME", "llamafarm"),
    }
