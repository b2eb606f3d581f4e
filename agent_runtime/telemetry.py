"""OpenTelemetry: where traces and metrics go, by the standard OTEL_… variables. Off unless one of
them names an endpoint; what is recorded then costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from opentelemetry.metrics import Meter, NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider, Tracer

from agent_runtime.errors import SetupError

NAME = "torpor"
ENDPOINTS = {
    "traces": ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    "metrics": ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
}
_PROTOCOL = "http/protobuf"


@dataclass(frozen=True)
class Telemetry:
    """close: sends what waits"""

    tracer: Tracer
    meter: Meter
    close: Callable[[], None]


def no_telemetry() -> Telemetry:
    """Records nothing, but passes a request's `traceparent` on."""
    tracer = NoOpTracerProvider().get_tracer(NAME)
    return Telemetry(tracer, NoOpMeterProvider().get_meter(NAME), lambda: None)


def telemetry_from(environment: Mapping[str, str]) -> Telemetry:
    """As the environment says; the exporters read the rest of the variables themselves. Raises
    SetupError for what is asked for and cannot be had."""
    traces, metrics = (_is_on(kind, environment) for kind in ENDPOINTS)
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or not (traces or metrics):
        return no_telemetry()
    protocol = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", _PROTOCOL)
    if protocol != _PROTOCOL:
        raise SetupError(
            f"telemetry is sent as {_PROTOCOL}; OTEL_EXPORTER_OTLP_PROTOCOL says {protocol}."
        )
    try:
        from agent_runtime.telemetry_export import exporting_as
    except ImportError as error:
        raise SetupError(
            f"OTEL_… variables ask for telemetry, and {error.name} is not installed: "
            "pip install 'torpor[telemetry]', or set OTEL_SDK_DISABLED=true."
        ) from error
    exporting = exporting_as(NAME, traces=traces, metrics=metrics)
    tracer, meter = exporting.tracers.get_tracer(NAME), exporting.meters.get_meter(NAME)
    return Telemetry(tracer, meter, exporting.close)


def _is_on(kind: str, environment: Mapping[str, str]) -> bool:
    """Whether traces or metrics are to be sent. Raises SetupError."""
    variable = f"OTEL_{kind.upper()}_EXPORTER"
    exporter = environment.get(variable, "otlp")
    if exporter not in ("otlp", "none"):
        raise SetupError(f"{variable} is {exporter}; it may be otlp or none.")
    return exporter == "otlp" and any(environment.get(name) for name in ENDPOINTS[kind])
