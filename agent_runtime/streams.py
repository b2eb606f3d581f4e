"""What a client sends and reads piece by piece."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx


async def pieces_of(path: Path) -> AsyncIterator[bytes]:
    """A file."""
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


async def events_of(response: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    """Names and JSON values of server-sent events."""
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
