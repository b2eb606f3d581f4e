"""Turns that one of two engines takes."""

import asyncio

import pytest

LONG_PROMPT = "Read this:\n" + "word " * 8000


async def until_running(engine, turn):
    while not turn.done():
        load = await engine.client.load(timeout=60)
        if load is not None and load.running + load.waiting:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"the turn was over too soon: {await turn}")


def ids(turns):
    return [turn.token_ids for turn in turns]


def other_of(name):
    return {"engine": "second", "second": "engine"}[name]
