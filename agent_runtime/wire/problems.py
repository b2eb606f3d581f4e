"""What went wrong."""

from __future__ import annotations

from agent_runtime.wire.base import Wire


class Problem(Wire):
    """Error body, after RFC 9457. param: the part of the request that it is about, if it is one."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    param: str | None = None
