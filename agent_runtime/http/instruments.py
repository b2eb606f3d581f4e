"""Instruments that count for Prometheus and for OpenTelemetry alike.

One name for both: `gen_ai.server.time_to_first_token` in seconds is, as OpenTelemetry's rules for
Prometheus have it, `gen_ai_server_time_to_first_token_seconds`. Without an exporter the half of
OpenTelemetry does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from opentelemetry.metrics import Counter as OtelCounter
from opentelemetry.metrics import Histogram as OtelHistogram
from opentelemetry.metrics import Meter
from opentelemetry.metrics import _Gauge as OtelGauge
from opentelemetry.util.types import Attributes
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as PrometheusCounter
from prometheus_client import Gauge as PrometheusGauge
from prometheus_client import Histogram as PrometheusHistogram

Unit = Literal["s", "By", "{token}", "1"]
_SUFFIX = {"s": "_seconds", "By": "_bytes", "{token}": "", "1": ""}


class Instruments:
    """Makes them, in one registry and of one meter."""

    def __init__(self, registry: CollectorRegistry, meter: Meter) -> None:
        self._registry = registry
        self._meter = meter

    def counter(self, name: str, help: str, *labels: str, unit: Unit = "1") -> Counter:
        return Counter(
            PrometheusCounter(_prometheus(name, unit), help, labels, registry=self._registry),
            self._meter.create_counter(name, unit=unit, description=help),
        )

    def histogram(
        self, name: str, help: str, *labels: str, unit: Unit, buckets: Sequence[float]
    ) -> Histogram:
        return Histogram(
            PrometheusHistogram(
                _prometheus(name, unit), help, labels, buckets=buckets, registry=self._registry
            ),
            self._meter.create_histogram(
                name, unit=unit, description=help, explicit_bucket_boundaries_advisory=buckets
            ),
        )

    def gauge(self, name: str, help: str, *labels: str, unit: Unit = "1") -> Gauge:
        return Gauge(
            PrometheusGauge(_prometheus(name, unit), help, labels, registry=self._registry),
            self._meter.create_gauge(name, unit=unit, description=help),
        )


class Counter:
    def __init__(self, ours: PrometheusCounter, theirs: OtelCounter) -> None:
        self._ours = ours
        self._theirs = theirs

    def add(self, amount: float = 1, **labels: str) -> None:
        (self._ours.labels(**labels) if labels else self._ours).inc(amount)
        self._theirs.add(amount, labels)


class Histogram:
    def __init__(self, ours: PrometheusHistogram, theirs: OtelHistogram) -> None:
        self._ours = ours
        self._theirs = theirs

    def record(self, value: float, *, more: Attributes | None = None, **labels: str) -> None:
        """more: attributes that OpenTelemetry alone is told"""
        (self._ours.labels(**labels) if labels else self._ours).observe(value)
        self._theirs.record(value, {**labels, **(more or {})})


class Gauge:
    """Of what is there now; labels that are not set any more are forgotten by `clear`."""

    def __init__(self, ours: PrometheusGauge, theirs: OtelGauge) -> None:
        self._ours = ours
        self._theirs = theirs

    def set(self, value: float, **labels: str) -> None:
        (self._ours.labels(**labels) if labels else self._ours).set(value)
        self._theirs.set(value, labels)

    def clear(self) -> None:
        self._ours.clear()


def _prometheus(name: str, unit: Unit) -> str:
    return name.replace(".", "_") + _SUFFIX[unit]
