"""The SDK's session, which tells the server what nobody waits for any more."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import anyio
from mcp import ClientSession
from mcp.types import (
    CallToolResult,
    CancelledNotification,
    CancelledNotificationParams,
    ClientNotification,
    ClientRequest,
    InitializeRequest,
)

from tools.budget import bounded
from tools.validation import OfflineValidator

_MOST = 1.0  # seconds for a notice to be taken by the transport


class Session(ClientSession):
    """Sends `notifications/cancelled` for a request whose caller was cancelled or has given up."""

    async def send_request(
        self,
        request: ClientRequest,
        result_type: type[Any],
        request_read_timeout_seconds: timedelta | None = None,
        metadata: Any = None,
        progress_callback: Any = None,
    ) -> Any:
        number = self._request_id  # the SDK takes it before it waits for anything
        try:
            return await super().send_request(
                request, result_type, request_read_timeout_seconds, metadata, progress_callback
            )
        except asyncio.CancelledError:
            # The protocol forbids to cancel the very first request.
            if not isinstance(request.root, InitializeRequest):
                await self._tell_cancelled(number)
            raise

    async def _validate_tool_result(self, name: str, result: CallToolResult) -> None:
        """As the SDK does, in bounds: the schema and what it is held against are the server's."""
        if name not in self._tool_output_schemas:
            await self.list_tools()
        schema = self._tool_output_schemas.get(name)
        if schema is None:
            return
        if result.structuredContent is None:
            raise RuntimeError(f"{name} promises structured content, and has returned none")
        try:
            with bounded(result.structuredContent):
                wrong = next(OfflineValidator(schema).iter_errors(result.structuredContent), None)
        except Exception as error:  # references, patterns: wrong in many ways, or endless
            raise RuntimeError(
                f"the schema of what {name} returns cannot be used: {error}"
            ) from error
        if wrong is not None:
            raise RuntimeError(f"what {name} has returned is not what it promises: {wrong.message}")

    async def _tell_cancelled(self, number: int) -> None:
        params = CancelledNotificationParams(requestId=number, reason="nobody waits for it")
        notice = CancelledNotification(method="notifications/cancelled", params=params)
        with (
            contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError),
            anyio.move_on_after(_MOST, shield=True),
        ):
            await self.send_notification(ClientNotification(notice))
