"""Prometheus metrics of one runtime.

Names after OpenTelemetry's GenAI conventions where those have one (`gen_ai_server_…`); ours begin
with `torpor_`. No label takes a value that a client chooses.
"""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_runtime.models import Resumed, Suspended, TurnResult

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_LENGTHS = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8)


class Metrics:
    """Counts of one process, in a registry of its own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "torpor_http_requests", "Requests", ["method", "route", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "torpor_http_request_seconds",
            "From the request to the end of its answer",
            ["method", "route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the moment a turn holds its session to its first token",
            buckets=_SECONDS,
            registry=registry,
        )
        self._each_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time of each generated token after the first",
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self._commit = Histogram(
            "torpor_commit_seconds",
            "From a turn's last token to its commit",
            buckets=_SECONDS,
            registry=registry,
        )
        self._turns = Counter(
            "torpor_turns",
            "Turns that ended with a result, by how it ended and what was made durable",
            ["finish_reason", "durable"],
            registry=registry,
        )
        self._tokens = Counter(
            "torpor_tokens",
            "Tokens: reused and recomputed ones were known, computed ones are all of a prompt that "
            "were not reused",
            ["kind"],
            registry=registry,
        )
        self._acceptance = Histogram(
            "torpor_mtp_accept_length",
            "Tokens per verification step of a turn",
            buckets=_LENGTHS,
            registry=registry,
        )
        self._bytes = Counter(
            "torpor_state_bytes",
            "Bytes of objects that turns made and that resumes staged",
            ["direction"],
            registry=registry,
        )
        self._suspend = Histogram(
            "torpor_suspend_seconds", "Suspends", buckets=_SECONDS, registry=registry
        )
        self._resume = Histogram(
            "torpor_resume_seconds",
            "Resumes, by whether all of the session's pages and states were found",
            ["restored"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._engines = Gauge(
            "torpor_engines", "Engines that are alive, at the last look", registry=registry
        )

    def turn(self, result: TurnResult) -> None:
        usage, timing = result.usage, result.timing
        self._turns.labels(result.finish_reason, result.durable or "no").inc()
        for kind, tokens in (
            ("reused", usage.reused_tokens),
            ("recomputed", usage.recomputed_tokens),
            ("computed", usage.prompt_tokens - usage.reused_tokens),
            ("generated", usage.completion_tokens),
        ):
            self._tokens.labels(kind).inc(tokens)
        self._bytes.labels("written").inc(result.bytes_written)
        if result.mtp_accept_length is not None:
            self._acceptance.observe(result.mtp_accept_length)
        if timing is not None:
            self._first_token.observe(timing.ttft_s)
            self._commit.observe(timing.commit_s)
            if usage.completion_tokens > 1:
                seconds = timing.generate_s - timing.ttft_s
                self._each_token.observe(seconds / (usage.completion_tokens - 1))

    def suspended(self, done: Suspended) -> None:
        self._suspend.observe(done.seconds)

    def resumed(self, done: Resumed) -> None:
        restored = "no" if done.reason else "yes"
        self._resume.labels(restored).observe(done.seconds)
        self._bytes.labels("read").inc(done.bytes_read)

    def engines(self, count: int) -> None:
        self._engines.set(count)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def exposition(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


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
            self._metrics.request(method, _route(scope), status, seconds)


_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}


def _route(scope: Scope) -> str:
    """Its pattern, such as /v1/sessions/{session_id}: paths hold ids."""
    return str(getattr(scope.get("route"), "path", "other"))
