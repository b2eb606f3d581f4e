"""Sending telemetry over OTLP. Imported only when that is asked for: `pip install
'torpor[telemetry]'`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


@dataclass(frozen=True)
class Exporting:
    tracers: TracerProvider
    meters: MeterProvider

    def close(self) -> None:
        """Sends what waits."""
        self.tracers.shutdown()
        self.meters.shutdown()


def exporting_as(name: str, *, traces: bool, metrics: bool) -> Exporting:
    """name: of the service, unless the environment has another"""
    is_named = OTEL_SERVICE_NAME in os.environ or "service.name=" in os.environ.get(
        OTEL_RESOURCE_ATTRIBUTES, ""
    )
    resource = Resource.create({} if is_named else {"service.name": name})
    tracers = TracerProvider(resource=resource)
    if traces:
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    readers = [PeriodicExportingMetricReader(OTLPMetricExporter())] if metrics else []
    return Exporting(tracers, MeterProvider(readers, resource=resource))
