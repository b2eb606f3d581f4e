"""The control connection: opened and checked, with scripts from anywhere, never out of turns."""

from __future__ import annotations

import asyncio

import pytest

from state_store.connection import Control
from state_store.errors import InvalidUrl, StoreUnavailable
from state_store.patience import Turns


async def test_connecting_checks_that_the_store_answers(server):
    control = await Control.connect(server.url, timeout=5.0)
    async with control.guard() as client:
        assert await client.ping()
    await control.close()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await Control.connect("redis://127.0.0.1:1", timeout=5.0)
    with pytest.raises(InvalidUrl):
        await Control.connect("http://here", timeout=5.0)


async def test_a_script_beside_its_caller_is_run_like_our_own(server, prefix, tmp_path):
    script = tmp_path / "greet.lua"
    script.write_text(f"return {{KEYS[1], ARGV[1], '{prefix}'}}")  # new to the server
    control = await Control.connect(server.url, timeout=5.0)
    for _ in range(2):
        assert await control.run(script, ["k"], "a") == [b"k", b"a", prefix.encode()]
    many = await control.run_many(script, [(["k1"], ["a1"]), (["k2"], ["a2"])])
    assert many == [[f"k{n}".encode(), f"a{n}".encode(), prefix.encode()] for n in (1, 2)]
    await control.close()


async def test_a_command_that_finds_no_turn_in_time_says_so(server, prefix, monkeypatch):
    monkeypatch.setattr("state_store.patience.TURNS", 1)
    control = await Control.connect(server.url, timeout=30.0)
    control.redis._turns = Turns(0.05)
    async with control.guard() as client:
        blocked = asyncio.create_task(client.blpop([prefix], timeout=0))
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="1 commands were under way"):
            async with control.guard():
                await client.ping()
        blocked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await blocked
        assert await client.ping()  # it gave its turn back
    await control.close()
