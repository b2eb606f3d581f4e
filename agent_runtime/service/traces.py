"""Every request is a span, under the caller's if it sent a `traceparent`."""

from __future__ import annotations

from opentelemetry import context, propagate
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_runtime.http.metrics import route_of
from agent_runtime.http.request_ids import current_request_id


class Traced:
    """ASGI middleware. Requests to engines and backends carry the span on: `engine/tracing.py`."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        outer = propagate.extract(headers)
        span = self._tracer.start_span(scope["method"], context=outer, kind=SpanKind.SERVER)
        token = context.attach(set_span_in_context(span, outer))

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= 500:
                    span.set_status(Status(StatusCode.ERROR))
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = route_of(scope)
            span.update_name(f"{scope['method']} {route}")
            span.set_attributes(
                {
                    "http.request.method": scope["method"],
                    "http.route": route,
                    "torpor.request_id": current_request_id() or "",
                }
            )
            span.end()
            context.detach(token)
