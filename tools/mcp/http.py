"""Streamable HTTP: the SDK's transport, which takes no answer for that of another request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
from mcp.client.streamable_http import StreamableHTTPTransport
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCError, JSONRPCMessage, JSONRPCResponse
from pydantic import ValidationError


class Transport(StreamableHTTPTransport):
    """A stream that broke is resumed, and servers may repeat there what belongs to other streams.
    The SDK gives every answer that comes the number of the request that was resumed."""

    async def _handle_sse_event(
        self,
        sse: Any,
        read_stream_writer: Any,
        original_request_id: Any = None,
        *rest: Any,
        **more: Any,
    ) -> bool:
        if original_request_id is not None and _answers(sse) not in (None, original_request_id):
            return False
        return await super()._handle_sse_event(
            sse, read_stream_writer, original_request_id, *rest, **more
        )


@asynccontextmanager
async def streams(client: httpx.AsyncClient, url: str) -> AsyncIterator[tuple[Any, Any]]:
    """As the SDK's `streamable_http_client`, with our transport."""
    said, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write, to_say = anyio.create_memory_object_stream[SessionMessage](0)
    transport = Transport(url)
    async with said, write, anyio.create_task_group() as tasks:

        def listen() -> None:
            tasks.start_soon(transport.handle_get_stream, client, said)

        tasks.start_soon(transport.post_writer, client, to_say, said, write, listen, tasks)
        try:
            yield read, write
        finally:
            if transport.session_id:
                await transport.terminate_session(client)
            tasks.cancel_scope.cancel()


def _answers(event: Any) -> str | int | None:
    """The number of the request that an event answers, if it is an answer."""
    try:
        message = JSONRPCMessage.model_validate_json(event.data).root
    except ValidationError:
        return None  # the SDK reports it
    return message.id if isinstance(message, JSONRPCResponse | JSONRPCError) else None
