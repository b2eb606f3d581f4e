"""Carrying a trace on to engines and backends: W3C's `traceparent`, if the work here has one."""

from __future__ import annotations

import httpx
from opentelemetry import propagate


async def carry(request: httpx.Request) -> None:
    """A request hook of httpx: adds the headers of the trace that this task belongs to."""
    propagate.inject(request.headers)


HOOKS = {"request": [carry]}
