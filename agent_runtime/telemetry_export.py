"""Sending telemetry over OTLP. Imported only when that is asked for: `pip install
'torpor[telemetry]'`."""

from __future__ import annotations

import os

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from agent_runtime.telemetry import NAME, Telemetry


def exporting(*, traces: bool, metrics: bool) -> Telemetry:
    is_named = OTEL_SERVICE_NAME in os.environ or "service.name=" in os.environ.get(
        OTEL_RESOURCE_ATTRIBUTES, ""
    )
    resource = Resource.create({} if is_named else {"service.name": NAME})
    tracers = TracerProvider(resource=resource)
    if traces:
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    readers = [PeriodicExportingMetricReader(OTLPMetricExporter())] if metrics else []
    meters = MeterProvider(readers, resource=resource)

    def close() -> None:
        tracers.shutdown()
        meters.shutdown()

    return Telemetry(tracers.get_tracer(NAME), meters.get_meter(NAME), close)
