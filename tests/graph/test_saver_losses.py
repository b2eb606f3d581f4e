"""What becomes of a checkpoint when something that it builds on goes away."""

import asyncio
import operator
import secrets
from typing import Annotated, TypedDict

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import END, START, StateGraph

from agent_runtime.errors import CheckpointLost
from agent_runtime.saver import TorporSaver
from agent_runtime.saver.keys import Place, ThreadKeys
from agent_runtime.saver.thread import Thread
from tests.graph.test_saver import note_taker, say, talker

THREAD = {"configurable": {"thread_id": "a", "checkpoint_ns": ""}}


class Work(TypedDict):
    messages: Annotated[list[str], operator.add]
    done: int
    slow: bool


async def resumed_while(saver, meanwhile):
    """What a run returns that is resumed and takes a step while the thread loses what it read, and
    the values of the checkpoint that it leaves."""
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def step(state: Work):
        if not state["slow"]:
            return {"messages": ["reply"], "done": 1}
        has_begun.set()
        await may_end.wait()
        return {"done": 99}

    builder = StateGraph(Work)
    builder.add_node("step", step)
    builder.add_edge(START, "step")
    builder.add_edge("step", END)
    graph = builder.compile(checkpointer=saver)
    await graph.ainvoke({"messages": [f"m{n}" for n in range(6)], "slow": False}, THREAD)
    start = (await graph.aget_state(THREAD)).config
    run = asyncio.create_task(graph.ainvoke({"slow": True}, start))
    await has_begun.wait()
    await meanwhile(graph)
    may_end.set()
    returned = await run
    async for found in saver.alist(THREAD):
        if found.checkpoint["channel_values"].get("done") == 99:
            return returned, (await graph.aget_state(found.config)).values
    raise AssertionError("the run has left no checkpoint")


async def test_a_run_keeps_its_conversation_when_another_trims_what_it_was_resumed_from(server):
    async def others(graph):
        for number in range(12):
            await graph.ainvoke({"messages": [f"b{number}"], "slow": False}, THREAD)

    prefix = f"t{secrets.token_hex(4)}"
    async with await TorporSaver.connect(server.url, prefix=prefix, keep=1) as brief:
        returned, stored = await resumed_while(brief, others)
    assert len(returned["messages"]) == 7
    assert stored == returned


async def test_a_run_keeps_its_conversation_when_the_thread_expires_meanwhile(saver):
    async def expire(_):
        async with saver._control.guard() as client:
            await client.delete(*ThreadKeys(saver._prefix, "a").fixed)

    returned, stored = await resumed_while(saver, expire)
    assert len(returned["messages"]) == 7
    assert stored == returned


async def test_a_checkpoint_whose_value_is_lost_is_an_error_and_not_an_empty_conversation(saver):
    await say(talker(saver), "a")
    async with saver._control.guard() as client:
        await client.delete(ThreadKeys(saver._prefix, "a").values)
    with pytest.raises(CheckpointLost):
        await saver.aget_tuple(THREAD)
    with pytest.raises(CheckpointLost):
        _ = [found async for found in saver.alist(THREAD)]


@pytest.mark.parametrize("lost", ["checkpoint", "value"])
async def test_a_delta_channel_that_cannot_be_rebuilt_is_an_error_and_not_a_shorter_list(
    saver, lost
):
    graph = note_taker(saver)
    for _ in range(3):
        await graph.ainvoke({"notes": ["asked"]}, THREAD)
    past = [found async for found in saver.alist(THREAD)]
    keys = ThreadKeys(saver._prefix, "a")
    if lost == "checkpoint":
        field = Place("", past[3].checkpoint["id"]).field
        async with saver._control.guard() as client:
            assert await client.hdel(keys.rows, field) == 1
    else:  # a branch begins with the whole value
        branch = await graph.aupdate_state(past[3].config, {"notes": ["another way"]})
        await graph.ainvoke({"notes": ["asked"]}, branch)
        async with saver._control.guard() as client:
            notes = [f for f in await client.hkeys(keys.values) if f.startswith(b"\0notes\0")]
            assert await client.hdel(keys.values, *notes)
    with pytest.raises(CheckpointLost):
        await saver.aget_delta_channel_history(config=THREAD, channels=["notes"])
    with pytest.raises(CheckpointLost):
        await graph.aget_state(THREAD)


async def test_a_copy_that_broke_off_takes_checkpoints_that_are_whole(server, saver, monkeypatch):
    def checkpoint(messages):
        version = saver.get_next_version(None, None)
        values = {"channel_values": {"m": messages}, "channel_versions": {"m": version}}
        return empty_checkpoint() | values, {}, {"m": version}

    messages = [f"message {number}" for number in range(3000)]
    await saver.aput(THREAD, *checkpoint(messages))
    copied, real = 0, Thread._copy_fields

    async def breaks_off(self, source, target, fields):
        nonlocal copied
        for field in sorted(fields):
            if copied == broken_after:
                raise ConnectionError("killed")
            copied += 1
            await real(self, source, target, [field])

    monkeypatch.setattr(Thread, "_copy_fields", breaks_off)
    for broken_after in (1500, 3010, 3048):  # items, chunks, value and row
        copied, thread_id = 0, f"copy {broken_after}"
        with pytest.raises(ConnectionError):
            await saver.acopy_thread("a", thread_id)
        config = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
        async with await TorporSaver.connect(server.url, prefix=saver._prefix) as other:
            at = await other.aput(config, *checkpoint(messages))
            found = await other.aget_tuple(at)
        assert found.checkpoint["channel_values"]["m"] == messages
