"""What a checkpoint costs, however long the thread is."""

import secrets
from typing import Annotated, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import START, StateGraph
from redis.asyncio.connection import AbstractConnection

from agent_runtime.saver import TorporSaver
from agent_runtime.saver.keys import ThreadKeys
from agent_runtime.saver.values import CHUNK

CONFIG = {"configurable": {"thread_id": "a", "checkpoint_ns": ""}}


async def put(saver, value, config=CONFIG):
    version = secrets.token_hex(4)
    whole = empty_checkpoint() | {
        "channel_values": {"list": value}, "channel_versions": {"list": version},
    }  # fmt: skip
    return await saver.aput(config, whole, {}, {"list": version})


async def stored(saver):
    """Bytes of the thread's fields and their values."""
    keys = ThreadKeys(saver._prefix, "a")
    async with saver._control.guard() as client:
        hashes = [await client.hgetall(key) for key in (keys.rows, keys.values, keys.items)]
    return sum(len(field) + len(value) for one in hashes for field, value in one.items())


async def test_one_more_item_costs_no_more_on_a_list_of_more_chunks_than_a_chunk_holds(saver):
    length = CHUNK * CHUNK + 3 * CHUNK
    await put(saver, list(range(length)))
    before = await stored(saver)
    config = await put(saver, list(range(length + 1)))
    assert await stored(saver) - before < 8 * CHUNK
    found = await saver.aget_tuple(config)
    assert found.checkpoint["channel_values"]["list"] == list(range(length + 1))
    await saver.aprune(["a"])
    found = await saver.aget_tuple(CONFIG)
    assert found.checkpoint["channel_values"]["list"] == list(range(length + 1))
    await put(saver, [0] * 4)
    await saver.aprune(["a"])
    async with saver._control.guard() as client:
        assert await client.hlen(ThreadKeys(saver._prefix, "a").items) == 2  # 0, and a chunk of it


def together(have, new):
    return [*have, *(one for write in new for one in write)]


class Notes(TypedDict):
    notes: Annotated[list[str], DeltaChannel(together, snapshot_frequency=4)]


async def taken(saver, notes):
    graph = StateGraph(Notes)
    graph.add_node("note", lambda held: {"notes": [f"{len(held['notes'])} " + "x" * 1000]})
    graph.add_edge(START, "note")
    graph = graph.compile(checkpointer=saver)
    for _ in range(notes // 2):
        await graph.ainvoke({"notes": ["asked"]}, CONFIG)
    return graph


async def test_the_whole_value_of_a_delta_channel_shares_its_items_with_those_before(saver):
    graph = await taken(saver, 40)
    keys = ThreadKeys(saver._prefix, "a")
    async with saver._control.guard() as client:
        items = await client.hvals(keys.items)
        values = await client.hvals(keys.values)
    assert sum(b"xxx" in item for item in items) <= 20
    assert max(map(len, values)) < 100
    assert len((await graph.aget_state(CONFIG)).values["notes"]) == 40


@pytest.fixture
def sent(monkeypatch):
    """What redis-py sends, a round trip each."""
    counted = []
    send = AbstractConnection.send_packed_command

    async def count(self, command, **options):
        counted.append(command)
        return await send(self, command, **options)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", count)
    return counted


@pytest.mark.parametrize("ttl", [None, 1000])
async def test_what_is_put_or_read_takes_one_round_trip_and_a_history_two(server, sent, ttl):
    prefix = f"t{secrets.token_hex(4)}"
    async with await TorporSaver.connect(server.url, prefix=prefix, ttl=ttl) as saver:
        config = await put(saver, list(range(1000)))
        writes = [("notes", ["one"]), ("others", 2)]
        for ask in (
            lambda: put(saver, list(range(1001))),
            lambda: saver.aput_writes(config, writes, "task"),
            lambda: saver.aget_tuple(CONFIG),
        ):
            sent.clear()
            await ask()
            assert len(sent) == 1
        await saver.adelete_thread("a")
        await taken(saver, 40)
        sent.clear()
        await saver.aget_delta_channel_history(config=CONFIG, channels=["notes"])
        assert len(sent) == 2
