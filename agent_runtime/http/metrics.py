"""What one runtime counts and times, for Prometheus and OpenTelemetry.

Names after OpenTelemetry's GenAI conventions where those have one (`gen_ai.…`); ours begin with
`torpor.`. No label takes a value that a client chooses. With an exporter, turns, suspends and
resumes are spans too, under the span of their request.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue
from prometheus_client import CollectorRegistry, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_runtime.caller.identity import current_tenant
from agent_runtime.http.engine_metrics import EngineMetrics
from agent_runtime.http.instruments import Instruments
from agent_runtime.http.tenant_metrics import TenantMetrics
from agent_runtime.telemetry import Telemetry
from agent_runtime.wire.residency import Resumed, Suspended
from agent_runtime.wire.scheduling import EngineSlots
from agent_runtime.wire.turns import TurnResult

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_LENGTHS = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8)
_COUNTS = tuple(4.0**power for power in range(11))  # tokens, to a million


class Metrics:
    """Counts of one process, in a registry of its own."""

    def __init__(
        self, telemetry: Telemetry, *, model: str | None, tenant: str, named_tenants: int
    ) -> None:
        """model: the name under which turns are told of; tenant: whose turns they are where no
        keys are asked for; named_tenants: see `TenantMetrics`"""
        self._tenant = tenant
        self._registry = CollectorRegistry()
        self._tracer = telemetry.tracer
        self._turn_span = f"chat {model or 'unknown'}"
        self._about: dict[str, AttributeValue] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "torpor",
            "gen_ai.request.model": model or "unknown",
        }
        made = Instruments(self._registry, telemetry.meter)
        self._requests = made.counter(
            "torpor.http_requests", "Requests", "method", "route", "status"
        )
        self._request_seconds = made.histogram(
            "torpor.http_request",
            "From the request to the end of its answer",
            "method",
            "route",
            unit="s",
            buckets=_SECONDS,
        )
        self._first_token = made.histogram(
            "gen_ai.server.time_to_first_token",
            "From the moment a turn holds its session to its first token",
            unit="s",
            buckets=_SECONDS,
        )
        self._each_token = made.histogram(
            "gen_ai.server.time_per_output_token",
            "Time of each generated token after the first",
            unit="s",
            buckets=_TOKEN_SECONDS,
        )
        self._duration = made.histogram(
            "gen_ai.server.request.duration",
            "Turns, from the moment they hold their session to their commit",
            unit="s",
            buckets=_SECONDS,
        )
        self._usage = made.histogram(
            "gen_ai.client.token.usage",
            "Tokens of a turn: input, output, and those of the input that were reused (cache_read)",
            "type",
            unit="{token}",
            buckets=_COUNTS,
        )
        self._queued = made.histogram(
            "torpor.queued", "Until an engine had a slot for a turn", unit="s", buckets=_SECONDS
        )
        self._load = made.histogram(
            "torpor.load",
            "Until what a turn builds on was known and staged from the store, queueing apart",
            unit="s",
            buckets=_SECONDS,
        )
        self._commit = made.histogram(
            "torpor.commit",
            "From a turn's last token to its commit: the rest of its state is offloaded, and the "
            "head moved",
            unit="s",
            buckets=_SECONDS,
        )
        self._suspend = made.histogram("torpor.suspend", "Suspends", unit="s", buckets=_SECONDS)
        self._resume = made.histogram(
            "torpor.resume",
            "Resumes, by whether all of the session's pages and states were found",
            "restored",
            unit="s",
            buckets=_SECONDS,
        )
        self._turns = made.counter(
            "torpor.turns",
            "Turns that ended with a result, by how it ended and what was made durable",
            "finish_reason",
            "durable",
        )
        self._rewritten = made.counter(
            "torpor.turns_rewritten",
            "Turns whose template showed earlier ones differently, and that rendered them anew",
        )
        self._tokens = made.counter(
            "torpor.tokens",
            "Tokens: reused and recomputed ones were known, computed ones are all of a prompt that "
            "were not reused, rewritten ones are of earlier turns that the template changed",
            "engine",
            "kind",
        )
        self._acceptance = made.histogram(
            "torpor.mtp_accept_length",
            "Tokens per verification step of a turn",
            "engine",
            unit="1",
            buckets=_LENGTHS,
        )
        self._bytes = made.counter(
            "torpor.state",
            "Bytes of objects that turns made and that resumes staged",
            "direction",
            unit="By",
        )
        self._errors = made.counter(
            "torpor.errors",
            "Errors that requests were answered with, by what raised them and their code",
            "layer",
            "code",
        )
        self._collected = made.counter(
            "torpor.gc_objects", "What was cleared out of the store and the archive", "kind"
        )
        self._engines = made.gauge("torpor.engines", "Engines that are alive, at the last look")
        self._sessions = made.gauge(
            "torpor.sessions",
            "Sessions by where this runtime knows them to be: resident on a device, running, "
            "waiting for a slot, away from the device",
            "engine",
            "place",
        )
        self._slots = made.gauge(
            "torpor.engine_use", "Share of an engine's states and tokens in use", "engine", "of"
        )
        self._streams = made.gauge("torpor.event_streams", "Open streams of session events")
        self.engines = EngineMetrics(made)
        self._tenants = TenantMetrics(made, most=named_tenants)

    def turn(self, result: TurnResult) -> None:
        """Of the running request."""
        usage, timing = result.usage, result.timing
        tenant = current_tenant(self._tenant)
        self._tenants.turn(tenant, usage)
        self._turns.add(finish_reason=result.finish_reason, durable=result.durable or "no")
        for kind, tokens in (
            ("reused", usage.reused_tokens),
            ("recomputed", usage.recomputed_tokens),
            ("rewritten", usage.rewritten_tokens),
            ("computed", usage.prompt_tokens - usage.reused_tokens),
            ("generated", usage.completion_tokens),
        ):
            self._tokens.add(tokens, engine=result.engine or "", kind=kind)
        for kind, tokens in (
            ("input", usage.prompt_tokens),
            ("output", usage.completion_tokens),
            ("cache_read", usage.reused_tokens),
        ):
            more = {**self._about, "gen_ai.token.type": kind}
            self._usage.record(tokens, more=more, type=kind)
        self._rewritten.add(int(usage.rewritten_tokens > 0))  # exporters refuse truth values
        self._bytes.add(result.bytes_written, direction="written")
        if result.mtp_accept_length is not None:
            self._acceptance.record(result.mtp_accept_length, engine=result.engine or "")
        if timing is None:
            return
        self._first_token.record(timing.ttft_s, more=self._about)
        self._queued.record(timing.queued_s)
        self._load.record(timing.ready_s)
        self._commit.record(timing.commit_s)
        whole = timing.generate_s + timing.commit_s
        self._duration.record(whole, more=self._about)
        if usage.completion_tokens > 1:
            seconds = (timing.generate_s - timing.ttft_s) / (usage.completion_tokens - 1)
            self._each_token.record(seconds, more=self._about)
        self._span(
            self._turn_span,
            whole,
            {
                **self._about,
                "gen_ai.conversation.id": result.session_id,
                "gen_ai.response.id": result.snapshot or "",
                "gen_ai.response.finish_reasons": (result.finish_reason,),
                "gen_ai.usage.input_tokens": usage.prompt_tokens,
                "gen_ai.usage.output_tokens": usage.completion_tokens,
                "gen_ai.usage.cache_read.input_tokens": usage.reused_tokens,
                "gen_ai.response.time_to_first_chunk": timing.ttft_s,
                "torpor.recomputed_tokens": usage.recomputed_tokens,
                "torpor.tenant": tenant,
                "torpor.engine": result.engine or "",
                "torpor.queued_s": timing.queued_s,
                "torpor.load_s": timing.ready_s,
                "torpor.commit_s": timing.commit_s,
                "torpor.state_bytes": result.bytes_written,
            },
        )

    def suspended(self, done: Suspended) -> None:
        self._suspend.record(done.seconds)
        attributes = {"gen_ai.conversation.id": done.session_id, "torpor.durable": done.durable}
        self._span("suspend", done.seconds, attributes)

    def resumed(self, done: Resumed) -> None:
        self._resume.record(done.seconds, restored="no" if done.reason else "yes")
        self._bytes.add(done.bytes_read, direction="read")
        self._span(
            "resume",
            done.seconds,
            {
                "gen_ai.conversation.id": done.session_id,
                "torpor.restorable_tokens": done.restorable_tokens,
                "torpor.state_bytes": done.bytes_read,
            },
        )

    def error(self, layer: str, code: str) -> None:
        """layer: `runtime`, `engine`, `store` or `tools`"""
        self._errors.add(layer=layer, code=code)

    def collected(self, kind: str, count: int) -> None:
        """Garbage of that kind: `snapshots`, `archived` or `orphans`."""
        self._collected.add(count, kind=kind)

    def now(self, *, engines: int, slots: list[EngineSlots], streams: int) -> None:
        """What is there at this moment."""
        self._engines.set(engines)
        self._streams.set(streams)
        self._sessions.clear()
        self._slots.clear()
        self._tenants.waiting(slots)
        for one in slots:
            for place, count in (
                ("resident", one.resident),
                ("running", one.running),
                ("waiting", sum(one.waiting.values())),
                ("away", one.away),
            ):
                self._sessions.set(count, engine=one.engine, place=place)
            self._slots.set(
                one.used_states / max(1, one.state_slots), engine=one.engine, of="states"
            )
            self._slots.set(one.used_tokens / max(1, one.kv_slots), engine=one.engine, of="tokens")

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.add(method=method, route=route, status=str(status))
        self._request_seconds.record(seconds, method=method, route=route)

    def exposition(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def _span(self, name: str, seconds: float, attributes: Mapping[str, AttributeValue]) -> None:
        """That ends now."""
        end = time.time_ns()
        start = end - int(seconds * 1e9)
        span = self._tracer.start_span(
            name, kind=SpanKind.INTERNAL, attributes=attributes, start_time=start
        )
        span.end(end)


class Measured:
    """ASGI middleware: counts and times requests, by their route's pattern."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            seconds = time.perf_counter() - started
            self._metrics.request(method, route_of(scope), status, seconds)


_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}


def route_of(scope: Scope) -> str:
    """Its pattern, such as /v1/sessions/{session_id}: paths hold ids."""
    return str(getattr(scope.get("route"), "path", "other"))
