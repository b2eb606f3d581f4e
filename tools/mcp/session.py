"""The SDK's session, which tells the server what nobody waits for any more."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import anyio
from mcp import ClientSession
from mcp.types import (
    CancelledNotification,
    CancelledNotificationParams,
    ClientNotification,
    ClientRequest,
    InitializeRequest,
)

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

    async def _tell_cancelled(self, number: int) -> None:
        params = CancelledNotificationParams(requestId=number, reason="nobody waits for it")
        notice = CancelledNotification(method="notifications/cancelled", params=params)
        with (
            contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError),
            anyio.move_on_after(_MOST, shield=True),
        ):
            await self.send_notification(ClientNotification(notice))
