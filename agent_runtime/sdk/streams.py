"""What a client sends and reads piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from agent_runtime.sdk.errors import parsed
from engine.lines import lines_of


class ServerSent(NamedTuple):
    """A server-sent event. data: its JSON value; id: "" if it has none"""

    name: str
    data: Any
    id: str


async def pieces_of(path: Path) -> AsyncIterator[bytes]:
    """A file."""
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


async def events_of(response: httpx.Response) -> AsyncIterator[ServerSent]:
    """Those that have come whole. Raises ApiError for data that are no JSON."""
    name = number = ""
    data: list[str] = []
    async for line in lines_of(response):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            number = value
        elif not line:
            if data:
                yield ServerSent(name, parsed("\n".join(data)), number)
            name, number, data = "", "", []
