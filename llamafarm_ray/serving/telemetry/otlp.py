"""Spans of requests and loads, sent by OTLP (https://opentelemetry.io/docs/specs/otlp/) to a collector.

Names and attributes are those of OpenTelemetry's conventions for generative AI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/) and for HTTP servers; ``llamafarm.*`` are ours. A
request's span is a child of the client's (W3C Trace Context, https://www.w3.org/TR/trace-context/) and the parent of
the engine's. A thread of the SDK sends them in batches; what the collector does not take in time is dropped, and no
request waits. The SDK's own variables (``OTEL_TRACES_SAMPLER``, ``OTEL_BSP_MAX_QUEUE_SIZE``, ...) count.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.serving.http.asgi import Scope
from llamafarm_ray.serving.routing.resolution import Target
from llamafarm_ray.serving.telemetry.outcome import End, FinishedRequest
from llamafarm_ray.serving.telemetry.tracing import Span, Tracing
from llamafarm_ray.telemetry.traces import exporter, shut_down

__all__ = ["OtlpTracing"]

_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""Operation names of the conventions by route; other routes are not traced."""
_ASKED: Final = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "n": "gen_ai.request.choice.count",
    "stream": "gen_ai.request.stream",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
}
_CONTEXT: Final = (b"traceparent", b"tracestate")
_W3C: Final = TraceContextTextMapPropagator()
_SERVER_ERROR: Final = 500


class OtlpTracing(Tracing):
    """Sends spans to a collector.

    Args:
        endpoint: its URL: the whole of it (``.../v1/traces``) for OTLP over HTTP.
        log_prompts: True if prompts are part of spans.
        grpc: True for gRPC instead of HTTP.
    """

    def __init__(self, endpoint: str, *, log_prompts: bool = False, grpc: bool = False) -> None:
        self._log_prompts = log_prompts
        # Not the process's global provider: that one is vLLM's. Closed by `close` and not at exit, which would wait.
        self._provider = TracerProvider(resource=Resource.create(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter(endpoint, grpc=grpc)))
        self._tracer = self._provider.get_tracer("llamafarm_ray")

    @contextmanager
    def request(self, scope: Scope) -> Iterator[Span]:
        """See :class:`Tracing`."""
        operation = _OPERATIONS.get(scope["path"])
        if operation is None:
            yield Span(scope)
            return
        span = self._tracer.start_span(
            operation,
            context=_parent(scope),
            kind=trace.SpanKind.SERVER,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "llamafarm",
                "http.request.method": scope["method"],
                "http.route": scope["path"],
            },
        )
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield OtlpSpan(scope, span, operation, log_prompts=self._log_prompts)
            except LlamaFarmError as error:
                _failed(span, error.code, error.http_status)
                raise
            except Exception as error:  # whatever ends a request is on its span, and is raised again
                _failed(span, type(error).__name__, _SERVER_ERROR)
                raise

    @contextmanager
    def step(self, name: str, target: Target | None = None) -> Iterator[None]:
        """See :class:`Tracing`."""
        attributes = _version(target) if target is not None else {}
        with self._tracer.start_as_current_span(name, attributes=attributes, record_exception=False):
            yield

    async def close(self) -> None:
        """See :class:`Tracing`."""
        await asyncio.to_thread(shut_down, self._provider)


class OtlpSpan(Span):
    """One request, told to a collector.

    Args:
        operation: operation name of the route in the conventions.
        log_prompts: True if the prompt is part of it.
    """

    def __init__(self, scope: Scope, span: trace.Span, operation: str, *, log_prompts: bool) -> None:
        super().__init__(_with_context(scope, span))
        self._span = span
        self._operation = operation
        self._log_prompts = log_prompts

    def asked(self, body: Mapping[str, Any]) -> None:
        """See :class:`Span`."""
        self._span.update_name(f"{self._operation} {body['model']}")
        self._span.set_attribute("gen_ai.request.model", body["model"])
        for field, name in _ASKED.items():
            if isinstance(body.get(field), bool | int | float):
                self._span.set_attribute(name, body[field])
        if self._log_prompts:
            self._span.set_attribute("gen_ai.input.messages", _messages(body))

    def resolved(self, target: Target) -> None:
        """See :class:`Span`."""
        self._span.set_attributes({"gen_ai.response.model": target.engine_name, **_version(target)})

    def sent_on(self, version: str) -> None:
        """See :class:`Span`."""
        self._span.set_attribute("llamafarm.version", version)
        self._span.set_attribute("http.response.status_code", HTTPStatus.TEMPORARY_REDIRECT.value)

    def began(self) -> None:
        """See :class:`Span`."""
        self._span.add_event("turn at the engine")

    def finished(self, request: FinishedRequest) -> None:
        """See :class:`Span`."""
        self._span.set_attribute("gen_ai.usage.input_tokens", request.prompt_tokens)
        self._span.set_attribute("gen_ai.usage.output_tokens", request.completion_tokens)
        if request.first_token_s is not None:
            self._span.set_attribute("gen_ai.response.time_to_first_chunk", request.first_token_s)
        if request.end is End.ANSWERED:
            self._span.set_attribute("http.response.status_code", request.status)
        else:
            _failed(self._span, str(request.end), request.status, is_fault=request.end is End.FAILED)


def _failed(span: trace.Span, kind: str, status: int, *, is_fault: bool | None = None) -> None:
    """Say that a request was not answered; a span's status is an error where that is the server's fault only."""
    span.set_attribute("error.type", kind)
    if status:
        span.set_attribute("http.response.status_code", status)
    if status >= _SERVER_ERROR if is_fault is None else is_fault:
        span.set_status(trace.StatusCode.ERROR)


def _version(target: Target) -> dict[str, str]:
    told = {"llamafarm.version": target.ref}
    if target.digest is not None:
        told["llamafarm.digest"] = target.digest
    if target.variant is not None:
        told |= {"llamafarm.variant": target.variant, "llamafarm.rollout": target.rollout}
    return told


def _parent(scope: Scope) -> Context:
    """The client's span; what is not well-formed counts as none, and is the root of a trace of its own."""
    told = {name.lower(): value for name, value in scope["headers"]}
    return _W3C.extract({name.decode(): told[name].decode("latin-1") for name in _CONTEXT if name in told}, Context())


def _with_context(scope: Scope, span: trace.Span) -> Scope:
    """Return the scope with this span as the parent of later spans."""
    told: dict[str, str] = {}
    _W3C.inject(told, trace.set_span_in_context(span, Context()))
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in _CONTEXT]
    headers += [(name.encode(), value.encode("latin-1")) for name, value in told.items()]
    return {**scope, "headers": headers}


def _messages(body: Mapping[str, Any]) -> str:
    """The prompt in the conventions' JSON: a list of messages of parts."""
    if "messages" not in body:
        told = [{"role": "user", "parts": [_text(body.get("prompt", body.get("input")))]}]
        return json.dumps(told, ensure_ascii=False)
    told = []
    for message in body["messages"]:
        content = message.get("content")
        told.append({"role": message["role"], "parts": content if isinstance(content, list) else [_text(content)]})
    return json.dumps(told, ensure_ascii=False)


def _text(content: object) -> dict[str, object]:
    return {"type": "text", "content": content}
