"""Requests and turns are traced and measured, under OpenTelemetry's names."""

import asyncio

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agent_runtime.errors import SetupError
from agent_runtime.service import api, operation_routes
from agent_runtime.service.api import create_app
from agent_runtime.telemetry import Telemetry, telemetry_from

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


@pytest.fixture
def reader():
    return InMemoryMetricReader()


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
async def app(settings, reader, exporter):
    """With telemetry that stays in memory."""
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry(tracers.get_tracer("test"), meters.get_meter("test"), lambda: None)
    app = create_app(settings, telemetry)
    async with app.router.lifespan_context(app):
        yield app
    tracers.shutdown()
    meters.shutdown()


def spans(exporter):
    return {span.name: span for span in exporter.get_finished_spans()}


def points(reader):
    """The data points of every metric, by its name."""
    (resource,) = reader.get_metrics_data().resource_metrics
    (scope,) = resource.scope_metrics
    return {metric.name: (metric.unit, list(metric.data.data_points)) for metric in scope.metrics}


async def test_a_turn_is_a_span_of_its_request_which_is_one_of_the_callers(
    session, turn, exporter, endpoint
):
    session_id = (await session()).json()["id"]
    result = await turn(session_id, headers=TRACEPARENT)
    request = spans(exporter)["POST /v1/sessions/{session_id}/turns"]
    chat = spans(exporter)["chat scripted"]
    assert f"{request.context.trace_id:032x}" == f"{chat.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == CALLER
    assert chat.parent.span_id == request.context.span_id
    assert request.start_time <= chat.start_time <= chat.end_time <= request.end_time
    told = dict(chat.attributes)
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.conversation.id"] == session_id
    assert told["gen_ai.response.id"] == result["snapshot"]
    assert told["gen_ai.response.finish_reasons"] == ("stop",)
    assert told["gen_ai.usage.input_tokens"] == 9
    assert told["gen_ai.usage.output_tokens"] == 2
    assert told["gen_ai.usage.cache_read.input_tokens"] == 0
    assert dict(request.attributes)["http.response.status_code"] == 200
    assert "Yes." not in str(told)


async def test_the_trace_goes_on_to_the_backend(session, turn, exporter, endpoint):
    await turn((await session()).json()["id"], headers=TRACEPARENT)
    sent = {name.lower(): value for name, value in endpoint.seen[-1][0].items()}
    request = spans(exporter)["POST /v1/sessions/{session_id}/turns"]
    assert sent["traceparent"] == f"00-{TRACE}-{request.context.span_id:016x}-01"


async def test_suspends_and_resumes_are_spans(http, session, turn, exporter):
    session_id = (await session()).json()["id"]
    await turn(session_id)
    for command in ("suspend", "resume"):
        assert (await http.post(f"/v1/sessions/{session_id}/{command}", json={})).is_success
        span = spans(exporter)[command]
        assert span.attributes["gen_ai.conversation.id"] == session_id
        assert span.parent is not None


async def test_metrics_have_the_conventions_names_and_units(http, session, turn, reader):
    session_id = (await session()).json()["id"]
    await turn(session_id)
    await http.post(f"/v1/sessions/{session_id}/suspend", json={})
    await http.get("/v1/sessions/ses-0123456789abcdef-0123456789abcdef")
    await http.get("/metrics")
    measured = points(reader)
    for name in (
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
        "gen_ai.server.request.duration",
    ):
        unit, (point,) = measured[name]
        assert (unit, point.count) == ("s", 1)
        assert point.attributes["gen_ai.request.model"] == "scripted"
    unit, usage = measured["gen_ai.client.token.usage"]
    sums = {point.attributes["gen_ai.token.type"]: point.sum for point in usage}
    assert (unit, sums) == ("{token}", {"input": 9, "output": 2, "cache_read": 0})
    assert measured["torpor.suspend"][1][0].count == 1
    (error,) = measured["torpor.errors"][1]
    assert dict(error.attributes) == {"layer": "store", "code": "not_found"}
    assert measured["torpor.engines"][1][0].value == 0


async def test_prometheus_has_every_metric_that_opentelemetry_has(http, session, turn, reader):
    await turn((await session()).json()["id"])
    text = (await http.get("/metrics")).text
    suffixes = {"s": "_seconds", "By": "_bytes"}
    measured = points(reader)
    assert len(measured) > 10
    for name, (unit, _) in measured.items():
        assert f"# TYPE {name.replace('.', '_')}{suffixes.get(unit, '')}" in text


async def test_without_an_exporter_a_trace_still_goes_on(settings, endpoint, script):
    import httpx

    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://runtime") as http,
    ):
        script("Yes.")
        session_id = (await http.post("/v1/sessions", json={})).json()["id"]
        body = {"messages": [{"role": "user", "content": "Hello."}]}
        path = f"/v1/sessions/{session_id}/turns"
        assert (await http.post(path, json=body, headers=TRACEPARENT)).is_success
    sent = {name.lower(): value for name, value in endpoint.seen[-1][0].items()}
    assert sent["traceparent"] == TRACEPARENT["traceparent"]


ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {ENDPOINT: ""},
        {ENDPOINT: "http://collector:4318", "OTEL_SDK_DISABLED": "true"},
        {
            ENDPOINT: "http://collector:4318",
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
        },
    ],
)
def test_nothing_is_sent_unless_it_is_asked_for(environment):
    assert not telemetry_from(environment).tracer.start_span("x").is_recording()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf"),
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "may be otlp or none"),
    ],
)
def test_what_cannot_be_sent_is_refused(environment, words):
    with pytest.raises(SetupError, match=words):
        telemetry_from({ENDPOINT: "http://collector:4318", **environment})


def test_an_exporter_that_is_not_installed_is_named(monkeypatch):
    import sys

    for module in ("metric_exporter", "trace_exporter"):
        name = f"opentelemetry.exporter.otlp.proto.http.{module}"
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "agent_runtime.telemetry_export", raising=False)
    with pytest.raises(SetupError, match=r"torpor\[telemetry\]"):
        telemetry_from({ENDPOINT: "http://collector:4318"})


async def test_a_look_that_fails_is_not_the_last_one(app, monkeypatch):
    looks, again = [], asyncio.Event()

    async def look(_):
        looks.append(None)
        if len(looks) == 1:
            raise KeyError("an engine of another version")
        again.set()

    monkeypatch.setattr(operation_routes, "look", look)
    monkeypatch.setattr(api, "_LOOK", 0.01)
    looking = asyncio.create_task(api._look_now_and_then(app))
    await asyncio.wait_for(again.wait(), 10)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
