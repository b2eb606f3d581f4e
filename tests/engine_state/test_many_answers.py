"""As many answers as there are turns run at a time on an engine."""

import asyncio
import contextlib

import pytest

from engine.client import EngineClient, Load, Sampling

TURNS = 120  # more than an HTTP client opens connections for by itself
LOADS = b'{"loads": [{"num_running_reqs": 120, "num_waiting_reqs": 0, "num_used_tokens": 9}]}'


@pytest.fixture
async def server():
    """Tells its load, and never ends an answer."""
    asked, done = asyncio.Semaphore(0), asyncio.Event()

    async def answer(reader, writer):
        request = await reader.readuntil(b"\r\n\r\n")
        if b"/generate" not in request:
            told = LOADS if b"/v1/loads" in request else b""  # to being asked to abort
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(told) + told)
        else:
            asked.release()
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await done.wait()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, backlog=TURNS) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", asked
        done.set()


async def test_an_engine_is_looked_at_while_more_than_a_hundred_turns_run(server):
    url, asked = server
    client = EngineClient(url)

    async def turn():
        async with contextlib.aclosing(client.generate([1], Sampling(), salt="")) as chunks:
            async for _ in chunks:
                pass

    turns = [asyncio.create_task(turn()) for _ in range(TURNS)]
    async with asyncio.timeout(60):
        for _ in turns:
            await asked.acquire()
    assert await client.load(timeout=20) == Load(running=TURNS, waiting=0, tokens=9)
    for one in turns:
        one.cancel()
    await asyncio.wait(turns)
    await client.close()
