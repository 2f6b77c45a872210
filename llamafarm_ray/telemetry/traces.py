"""OpenTelemetry: the endpoint that spans go to, and spans of work that is no request.

Without an endpoint nothing is recorded, and nothing of OpenTelemetry is imported. Spans of requests are made in
:mod:`llamafarm_ray.serving.telemetry`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

__all__ = [
    "PROTOCOL",
    "Spans",
    "Value",
    "exporter",
    "is_grpc",
    "protocol",
    "shut_down",
    "step",
    "traced",
    "traceparent",
    "traces_endpoint",
]

PROTOCOL: Final = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
"""Environment variable of a collector's protocol."""
_GRPC: Final = "grpc"
_HTTP: Final = "http/protobuf"
_CLOSE_S: Final = 2.0
_NS: Final = 1_000_000_000

Value = str | int | float | bool


def traces_endpoint(configured: str | None, environment: Mapping[str, str]) -> str | None:
    """Return the URL that spans go to; ``None`` if tracing is off.

    Settings that are not configured are looked up where every OpenTelemetry SDK does
    (https://opentelemetry.io/docs/specs/otel/protocol/exporter/).

    Args:
        configured: ``deployment.otlp_traces_endpoint``.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    named = configured or environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if named:
        return named
    base = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not base:
        return None
    return base if protocol(environment) == _GRPC else f"{base.rstrip('/')}/v1/traces"


def protocol(environment: Mapping[str, str]) -> str:
    """Return a collector's protocol: ``grpc`` or ``http/protobuf``."""
    return environment.get(PROTOCOL) or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL") or _HTTP


def is_grpc(environment: Mapping[str, str]) -> bool:
    """Return True if a collector uses gRPC."""
    return protocol(environment) == _GRPC


def exporter(endpoint: str, *, grpc: bool) -> SpanExporter:
    """Return an exporter; each takes a second to import, and one of them is needed."""
    if grpc:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as ByGrpc

        return ByGrpc(endpoint=endpoint)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as ByHttp

    return ByHttp(endpoint=endpoint)


def shut_down(provider: TracerProvider) -> None:
    """Send the spans that a provider still holds, for two seconds at most, and close it."""
    closing = threading.Thread(target=provider.shutdown, daemon=True)
    closing.start()
    closing.join(_CLOSE_S)


class Spans:
    """Tracer of a process that works on one thing: a run, or a part of it.

    Args:
        endpoint: the collector's URL; None: spans are dropped.
        parent: span that this process's are parts of, as a ``traceparent`` (W3C Trace Context); empty: none.
    """

    _provider: TracerProvider | None = None
    _tracer: Tracer | None = None
    _parent: Context | None = None

    def __init__(self, endpoint: str | None, parent: str = "") -> None:
        if endpoint is None:
            return
        from opentelemetry.sdk.resources import Resource  # half a second of imports
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        name = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "llamafarm")}
        self._provider = TracerProvider(resource=Resource.create(name), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter(endpoint, grpc=is_grpc(os.environ))))
        self._tracer = self._provider.get_tracer("llamafarm_ray")
        self._parent = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, Value] | None = None) -> Iterator[None]:
        """Trace what happens inside the block; a span of this thread that is open is its parent."""
        if self._tracer is None:
            yield
            return
        from opentelemetry import trace

        is_inside = trace.get_current_span().get_span_context().is_valid
        context = None if is_inside else self._parent
        with self._tracer.start_as_current_span(
            name, context, attributes=dict(attributes or {}), record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:  # Ctrl-C too: whatever ends a span is on it, and is raised again
                span.set_attribute("error.type", getattr(error, "code", type(error).__name__))
                span.set_status(trace.StatusCode.ERROR)
                raise

    def past(
        self, name: str, seconds: float, attributes: Mapping[str, Value] | None = None, *, ended_s: float = 0.0
    ) -> None:
        """Record what took so long, and ended now or so many seconds ago."""
        if self._tracer is None:
            return
        end = time.time_ns() - int(ended_s * _NS)
        begun = end - int(seconds * _NS)
        span = self._tracer.start_span(name, self._parent, attributes=dict(attributes or {}), start_time=begun)
        span.end(end)

    def close(self) -> None:
        """Send the pending spans, for two seconds at most."""
        if self._provider is not None:
            shut_down(self._provider)


_NOWHERE: Final = Spans(None)
_current: ContextVar[Spans] = ContextVar("llamafarm_spans", default=_NOWHERE)


@contextmanager
def traced(endpoint: str | None, name: str, attributes: Mapping[str, Value] | None = None) -> Iterator[None]:
    """Trace the work of a command, whose parts are traced by :func:`step`.

    ``$TRACEPARENT`` names the span that the command is a part of, as of a pipeline that starts it.

    Args:
        endpoint: see :func:`traces_endpoint`.
    """
    spans = Spans(endpoint, os.environ.get("TRACEPARENT", ""))
    before = _current.set(spans)
    try:
        with spans.span(name, attributes):
            yield
    finally:
        _current.reset(before)
        spans.close()


@contextmanager
def step(name: str, attributes: Mapping[str, Value] | None = None) -> Iterator[None]:
    """Trace the block as a part of the command that is traced, if one is."""
    with _current.get().span(name, attributes):
        yield


def traceparent() -> str:
    """Return the open span of this thread for another process; empty without one."""
    if _current.get() is _NOWHERE:
        return ""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    told: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(told)
    return told.get("traceparent", "")
