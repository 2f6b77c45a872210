"""An OpenTelemetry collector on loopback: OTLP over HTTP, protobuf, plain or gzipped; it keeps what it is sent."""

import contextlib
import dataclasses
import gzip
import threading

from http_server import QuietHandler, http_server
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from patience import patience


@dataclasses.dataclass(frozen=True)
class Received:
    """One span, with plain values."""

    name: str
    kind: int
    trace: str
    span: str
    parent: str
    attributes: dict
    resource: dict
    events: list
    is_error: bool


class Collector:
    """Keeps spans.

    Attributes:
        url: address that receives them.
        spans: those that came.
    """

    def __init__(self, address):
        self.url = f"{address}/v1/traces"
        self.spans = []
        self._came = threading.Condition()

    def take(self, request):
        with self._came:
            for group in request.resource_spans:
                resource = plain(group.resource.attributes)
                self.spans += [received(span, resource) for scope in group.scope_spans for span in scope.spans]
            self._came.notify_all()

    def wait(self, holds, timeout_s=20.0):
        """The spans, once something holds of them."""
        with self._came:
            assert self._came.wait_for(lambda: holds(self.spans), patience(timeout_s)), [one.name for one in self.spans]
            return list(self.spans)


def received(span, resource):
    return Received(
        name=span.name,
        kind=span.kind,
        trace=span.trace_id.hex(),
        span=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        attributes=plain(span.attributes),
        resource=resource,
        events=[event.name for event in span.events],
        is_error=span.status.code == span.status.STATUS_CODE_ERROR,
    )


def plain(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextlib.contextmanager
def collecting(*, answers=None):
    """A collector; with ``answers``, an event that has to be set before it says anything."""

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            data = self.read_body()
            if answers is not None:
                answers.wait(30)
            known = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
            if known:
                if self.headers.get("Content-Encoding") == "gzip":
                    data = gzip.decompress(data)
                collector.take(ExportTraceServiceRequest.FromString(data))
            said = ExportTraceServiceResponse().SerializeToString()
            self.reply(200 if known else 404, said, Content_Type="application/x-protobuf")

    with http_server(Handler) as address:
        collector = Collector(address)
        try:
            yield collector
        finally:
            if answers is not None:
                answers.set()
