"""Whether an engine is there, for the price of a connection."""

import asyncio
import socket

import pytest

from engine.client import EngineClient
from engine.errors import EngineUnreachable
from engine.launch import free_port


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
async def test_who_listens_is_there_though_it_says_nothing(host, shown):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        client = EngineClient(f"http://{shown}:{listening.getsockname()[1]}")
        await client.knock(timeout=20)
        await client.close()


async def test_who_is_too_busy_to_accept_is_there():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        client = EngineClient(f"http://127.0.0.1:{listening.getsockname()[1]}")
        with socket.create_connection(listening.getsockname()):  # the only one that may wait
            started = asyncio.get_running_loop().time()
            await client.knock(timeout=0.3)
            assert asyncio.get_running_loop().time() - started >= 0.3
        await client.close()


async def test_where_nobody_listens_there_is_none():
    client = EngineClient(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(EngineUnreachable, match="does not answer"):
        await client.knock(timeout=20)
    await client.close()
    with pytest.raises(EngineUnreachable):
        await client.knock(timeout=20)
