"""Many open streams of session events on one runtime: is everything told, and does memory grow?

Half of the readers read as it comes; the others read nothing until the end, and must then have all
that they were not told to have missed.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from agent_runtime.deployment import Layout, RuntimeProcess, emptied
from agent_runtime.wire.session_events import Rewound, name_of
from engine.backends.settings import BackendSettings
from engine.launch import free_port
from state_store.embedded import EmbeddedServer
from state_store.feeds import Post
from state_store.store import StateStore

_SESSIONS = 50
_PAUSE = 0.25  # seconds between two events of a session
_WARM_UP = 8  # events of each session, before memory is first looked at
_LATE = 60.0  # seconds for the last event to come
_DIGITS = 512  # of each event's number: in minutes a slow reader falls behind all buffers
_SLOW = 4096  # bytes that a reader who does not read takes all the same
_HEAD = re.compile(rb'"head":"(\d+)"')
_DROPPED = re.compile(rb'"dropped":(\d+)')


@dataclass
class _Reader:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    heads: list[int] = field(default_factory=list)
    missed: int = 0

    async def read(self, *, until: int) -> None:
        """Events up to the one with this number."""
        while not self.heads or self.heads[-1] < until:
            line = await self.reader.readline()
            if not line:
                return
            self.heads += map(int, _HEAD.findall(line))
            self.missed += sum(map(int, _DROPPED.findall(line)))


def measure(*, streams: int, seconds: float, data: Path) -> Awaitable[dict[str, Any]]:
    """One record. data: a directory, emptied first"""
    emptied(data)
    return _record(Layout(data), streams, seconds)


async def _record(layout: Layout, streams: int, seconds: float) -> dict[str, Any]:
    with EmbeddedServer(layout.store) as server:
        runtime = RuntimeProcess(
            redis_url=server.url,
            archive=None,
            model=None,
            port=free_port(),
            log_file=layout.runtime_log,
            backend=BackendSettings(url="http://127.0.0.1:9/v1", model="none"),  # asked nothing
        )
        with runtime:
            async with await StateStore.connect(server.url) as store:
                return await _measured(runtime, store, streams, seconds)


async def _measured(
    runtime: RuntimeProcess, store: StateStore, streams: int, seconds: float
) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=runtime.url, timeout=60, trust_env=False) as http:
        made = [await http.post("/v1/sessions", json={}) for _ in range(min(_SESSIONS, streams))]
    sessions = [answer.json()["id"] for answer in made]
    readers = [
        await _opened(runtime.url, sessions[n % len(sessions)], is_slow=n % 2 == 1)
        for n in range(streams)
    ]
    process = psutil.Process(runtime.pid)
    number = 0
    reading = [asyncio.create_task(one.read(until=1 << 60)) for one in readers[::2]]
    samples: list[int] = []
    started = time.monotonic()
    while time.monotonic() - started < seconds or number <= _WARM_UP:
        number += 1
        event = Rewound(head=f"{number:0{_DIGITS}}")
        value = f"{name_of(event)}\n{event.model_dump_json()}"
        await store.feeds.publish([Post(session_id, value.encode()) for session_id in sessions])
        if number >= _WARM_UP:
            samples.append(process.memory_info().rss)
        await asyncio.sleep(_PAUSE)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    async with asyncio.timeout(_LATE):
        await asyncio.gather(*(one.read(until=number) for one in readers))
    for one in readers:
        one.writer.close()
    return {
        "streams": streams,
        "sessions": len(sessions),
        "seconds": round(time.monotonic() - started, 1),
        "events": number * len(sessions),
        "told": sum(len(one.heads) for one in readers),
        "told_missed": sum(one.missed for one in readers),
        "lost": sum(number - len(one.heads) - one.missed for one in readers),
        "out_of_order": sum(one.heads != sorted(set(one.heads)) for one in readers),
        "rss_mb": round(samples[0] / 1e6, 1),
        "rss_end_mb": round(samples[-1] / 1e6, 1),
        "growth_mb": round((samples[-1] - samples[0]) / 1e6, 1),
        "growth_late_mb": round((samples[-1] - samples[len(samples) // 2]) / 1e6, 1),
    }


async def _opened(url: str, session_id: str, *, is_slow: bool) -> _Reader:
    """A stream whose first event has come. A slow reader takes next to nothing on its own side, so
    that what it does not read waits in the service."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = socket.socket()
    if is_slow:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW)
    connection.connect((host, int(port)))
    reader, writer = await asyncio.open_connection(
        sock=connection, limit=_SLOW if is_slow else 1 << 16
    )
    writer.write(f"GET /v1/sessions/{session_id}/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    while not (await reader.readline()).startswith(b"event: session"):
        pass
    return _Reader(reader, writer)
