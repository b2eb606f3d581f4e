"""Reading server-sent events as they come."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx


class Event(NamedTuple):
    id: str | None
    name: str
    data: dict[str, Any]


class Stream:
    """One that is open."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> Event | None:
        """None at the end."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                return Event(fields.get("id"), fields["event"], json.loads(fields["data"]))
        return None

    async def comment(self) -> str:
        async for line in self._lines:
            if line.startswith(":"):
                return line
        raise AssertionError("the stream ended without a comment")

    async def until(self, *names: str) -> list[Event]:
        """All events up to the first one of these names."""
        found: list[Event] = []
        while (event := await self.next()) is not None:
            found.append(event)
            if event.name in names:
                return found
        raise AssertionError(f"the stream ended after {found}")


@contextlib.asynccontextmanager
async def listening(
    http: httpx.AsyncClient, path: str, *, after: str | None = None
) -> AsyncIterator[Stream]:
    headers = {} if after is None else {"Last-Event-ID": after}
    async with http.stream("GET", path, headers=headers) as response:
        yield Stream(response)
