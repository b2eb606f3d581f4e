"""Traces and metrics leave over OTLP, for a collector as the environment names it."""

import gzip
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agent_runtime.service.api import create_app
from agent_runtime.telemetry import telemetry_from

KINDS = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """received: path, headers and message of every request"""

    def __init__(self):
        self.received = received = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                received.append((self.path, self.headers, KINDS[self.path].FromString(body)))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def spans(self):
        return [
            span
            for path, _, message in self.received
            if path == "/v1/traces"
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def metrics(self):
        """The last that was sent of each, by name."""
        return {
            metric.name: metric
            for path, _, message in self.received
            if path == "/v1/metrics"
            for resource in message.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def services(self):
        return {
            attribute.value.string_value
            for _, _, message in self.received
            for resource in (
                message.resource_spans
                if isinstance(message, ExportTraceServiceRequest)
                else message.resource_metrics
            )
            for attribute in resource.resource.attributes
            if attribute.key == "service.name"
        }

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector(monkeypatch):
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=acme")
    yield collector
    collector.close()


@pytest.fixture
async def telemetry(collector):
    return telemetry_from(os.environ)


@pytest.fixture
async def app(settings, telemetry):
    app = create_app(settings, telemetry)
    async with app.router.lifespan_context(app):
        yield app


async def test_spans_and_metrics_of_a_turn_reach_the_collector(session, turn, telemetry, collector):
    session_id = (await session()).json()["id"]
    await turn(session_id, "A secret.", headers={"traceparent": f"00-{TRACE}-{CALLER}-01"})
    telemetry.close()  # sends what waits, as where a service ends
    spans = {span.name: span for span in collector.spans()}
    request, chat = spans["POST /v1/sessions/{session_id}/turns"], spans["chat scripted"]
    assert request.trace_id.hex() == chat.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == CALLER
    assert chat.parent_span_id == request.span_id
    told = {attribute.key: attribute.value for attribute in chat.attributes}
    assert told["gen_ai.conversation.id"].string_value == session_id
    assert told["gen_ai.usage.output_tokens"].int_value == 2
    metrics = collector.metrics()
    (point,) = metrics["gen_ai.server.time_to_first_token"].histogram.data_points
    assert point.count == 1
    assert metrics["gen_ai.server.time_to_first_token"].unit == "s"
    assert {"torpor.turns", "torpor.tokens", "gen_ai.client.token.usage"} <= metrics.keys()
    assert collector.services() == {"torpor"}
    assert {headers["x-tenant"] for _, headers, _ in collector.received} == {"acme"}
    for *_, message in collector.received:
        assert b"A secret." not in message.SerializeToString()


async def test_only_what_is_asked_for_is_sent(monkeypatch, collector):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    telemetry = telemetry_from(os.environ)
    with telemetry.tracer.start_as_current_span("alone"):
        telemetry.meter.create_counter("counted").add(1)
    telemetry.close()
    assert collector.spans() == []
    assert "counted" in collector.metrics()
