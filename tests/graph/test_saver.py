"""LangGraph's checkpointer on a real Redis-compatible server."""

import asyncio
import operator
import secrets
import time
from dataclasses import dataclass
from typing import Annotated, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import INTERRUPT
from langgraph.graph import END, START, StateGraph

from agent_runtime.errors import BadRequest, CheckpointLost
from agent_runtime.saver import TorporSaver, reading
from agent_runtime.saver.keys import ThreadKeys
from agent_runtime.saver.memo import Memo
from agent_runtime.saver.values import CHUNK, take_apart
from state_store.errors import InvalidArgument


async def test_every_capability_of_a_checkpointer_conforms(server):
    @checkpointer_test(name="TorporSaver")
    async def fresh():
        prefix = f"t{secrets.token_hex(4)}"
        async with await TorporSaver.connect(server.url, prefix=prefix) as opened:
            yield opened

    report = await validate(fresh)
    failures = {name: result.failures for name, result in report.results.items()}
    assert all(result.detected and result.passed for result in report.results.values()), failures
    assert len(report.results) == 8


class Talk(TypedDict):
    messages: Annotated[list[str], operator.add]


def talker(saver, **options):
    def speak(state: Talk):
        return {"messages": [f"{len(state['messages'])} " + "x" * 1000]}

    graph = StateGraph(Talk)
    graph.add_node("speak", speak)
    graph.add_edge(START, "speak")
    graph.add_conditional_edges(
        "speak", lambda state: "speak" if len(state["messages"]) % 10 else END
    )
    return graph.compile(checkpointer=saver, **options)


async def say(graph, thread, text="hello"):
    config = {"configurable": {"thread_id": thread}, "recursion_limit": 100}
    return (await graph.ainvoke({"messages": [text]}, config))["messages"]


async def test_a_graph_goes_on_where_another_process_left_it(server, saver):
    first = await say(talker(saver), "a")
    async with await TorporSaver.connect(server.url, prefix=saver._prefix) as other:
        second = await say(talker(other), "a")
    assert second[: len(first)] == first
    assert len(second) == 20


async def test_time_travel_and_forks_see_what_the_reference_sees(saver):
    seen = []
    for one in (saver, InMemorySaver()):
        graph = talker(one)
        await say(graph, "a")
        past = [
            state async for state in graph.aget_state_history({"configurable": {"thread_id": "a"}})
        ]
        branch = await graph.aupdate_state(past[5].config, {"messages": ["another"]})
        await graph.ainvoke(None, branch, recursion_limit=100)
        states = [s async for s in graph.aget_state_history({"configurable": {"thread_id": "a"}})]
        seen.append([(s.values, s.next, s.metadata["source"], s.metadata["step"]) for s in states])
    assert seen[0] == seen[1]


async def stored_bytes(saver, thread):
    keys = ThreadKeys(saver._prefix, thread)
    async with saver._control.guard() as client:
        return sum([await client.memory_usage(key, samples=0) or 0 for key in keys.fixed])


async def test_a_growing_conversation_stores_each_message_once(saver):
    graph = talker(saver)
    sizes = []
    for _ in range(3 * CHUNK // 10):
        messages = await say(graph, "a")
        sizes.append(await stored_bytes(saver, "a"))
    early, late = sizes[1] - sizes[0], sizes[-1] - sizes[-2]
    assert len(messages) * 1000 < sizes[-1]  # they are all in there
    assert late < 1.5 * early


async def test_a_message_that_is_lost_is_an_error_and_not_a_shorter_conversation(saver):
    messages = await say(talker(saver), "a")
    items = take_apart({"messages": messages}, saver.serde, Memo(), lambda _: False).items
    async with saver._control.guard() as client:
        assert await client.hdel(ThreadKeys(saver._prefix, "a").items, list(items)[3]) == 1
    with pytest.raises(CheckpointLost):
        await saver.aget_tuple({"configurable": {"thread_id": "a"}})


class Notes(TypedDict):
    notes: Annotated[list[str], DeltaChannel(lambda have, new: have + [n for w in new for n in w])]


def note_taker(saver):
    def note(state: Notes):
        return {"notes": [f"note {len(state['notes'])}"]}

    graph = StateGraph(Notes)
    graph.add_node("note", note)
    graph.add_edge(START, "note")
    graph.add_edge("note", END)
    return graph.compile(checkpointer=saver)


@pytest.mark.parametrize("walk", [512, 5])
async def test_a_history_read_at_once_is_what_walking_back_step_by_step_finds(
    saver, walk, monkeypatch
):
    """In one walk of a script or several, on a branch, and with the value found in between."""
    monkeypatch.setattr(reading, "_WALK", walk)
    graph = note_taker(saver)
    config = {"configurable": {"thread_id": "a"}}
    for number in range(60):
        await graph.ainvoke({"notes": [f"asked {number}"]}, config)
    past = [state.config async for state in graph.aget_state_history(config)]
    branch = await graph.aupdate_state(past[100], {"notes": ["another way"]})
    await graph.ainvoke(
        {"notes": ["on the branch"]}, {**branch, "configurable": {"thread_id": "a"}}
    )
    past = [state.config async for state in graph.aget_state_history(config)]
    for one in [config, branch, *past[::20]]:
        whole = await saver.aget_delta_channel_history(config=one, channels=["notes", "none"])
        walked = await BaseCheckpointSaver.aget_delta_channel_history(
            saver, config=one, channels=["notes", "none"]
        )
        assert whole == walked
    assert len(past) > 180
    assert len(whole["notes"]["writes"]) < 20
    seeded = await saver.aget_delta_channel_history(config=config, channels=["__start__"])
    assert set(seeded["__start__"]) == {"seed", "writes"}
    gone = {"configurable": {"thread_id": "a", "checkpoint_ns": "", "checkpoint_id": "1e"}}
    history = await saver.aget_delta_channel_history(config=gone, channels=["notes"])
    assert history == {"notes": {"writes": []}}


async def test_pruning_keeps_what_delta_channels_are_rebuilt_from(saver):
    graph = note_taker(saver)
    config = {"configurable": {"thread_id": "a"}}
    for _ in range(6):
        await graph.ainvoke({"notes": ["asked"]}, config)
    before = (await graph.aget_state(config)).values
    assert len(before["notes"]) == 12
    await saver.aprune(["a"])
    assert (await graph.aget_state(config)).values == before
    await graph.ainvoke({"notes": ["asked"]}, config)
    assert (await graph.aget_state(config)).values["notes"][:12] == before["notes"]


async def test_pruning_frees_what_only_old_checkpoints_had(saver):
    graph = talker(saver)
    for _ in range(3):
        await say(graph, "a")
    keys = ThreadKeys(saver._prefix, "a")
    before = await stored_bytes(saver, "a")
    await saver.aprune(["a"])
    assert await stored_bytes(saver, "a") < before
    state = await saver.aget_tuple({"configurable": {"thread_id": "a"}})
    assert len(state.checkpoint["channel_values"]["messages"]) == 30
    async with saver._control.guard() as client:
        versions = state.checkpoint["channel_versions"]
        assert await client.hlen(keys.values) <= len(versions)
        messages = state.checkpoint["channel_values"]["messages"]
        assert await client.hlen(keys.items) == len(set(messages)) + 1  # and a chunk of digests
    assert len(await say(graph, "a")) == 40


async def test_deleting_a_thread_leaves_nothing(saver):
    await say(talker(saver), "a")
    await say(talker(saver), "b")
    await saver.adelete_thread("a")
    async with saver._control.guard() as client:
        assert await client.keys(f"{saver._prefix}:{{thread:a}}*") == []
        assert await client.smembers(f"{saver._prefix}:threads") == {b"b"}
    assert len(await say(talker(saver), "b")) == 20


async def test_a_copy_goes_its_own_way(saver):
    graph = talker(saver)
    first = await say(graph, "a")
    await saver.acopy_thread("a", "b")
    mine = await say(graph, "a", "mine")
    other = await say(graph, "b", "other")
    assert mine[: len(first)] == other[: len(first)] == first
    assert mine[len(first)] == "mine"
    assert other[len(first)] == "other"


async def test_threads_expire_whole_and_are_listed_no_more(server):
    prefix = f"t{secrets.token_hex(4)}"
    async with await TorporSaver.connect(server.url, prefix=prefix, ttl=1.5) as brief:
        await say(talker(brief), "a")
        async with brief._control.guard() as client:
            keys = await client.keys(f"{prefix}:{{thread:a}}*")
            lives = [await client.pttl(key) for key in keys]
            assert all(0 < life <= 2250 for life in lives)
            deadline = time.monotonic() + 30
            while await client.keys(f"{prefix}:{{thread:a}}*"):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
        assert [found async for found in brief.alist(None)] == []
        async with brief._control.guard() as client:
            assert await client.keys(f"{prefix}:threads") == []


async def test_writes_that_delta_channels_are_rebuilt_from_live_as_long_as_their_thread(server):
    prefix, ttl = f"t{secrets.token_hex(4)}", 1000
    config = {"configurable": {"thread_id": "a"}}
    async with await TorporSaver.connect(server.url, prefix=prefix, ttl=ttl) as brief:
        graph = note_taker(brief)
        for _ in range(5):
            await graph.ainvoke({"notes": ["asked"]}, config)
            async with brief._control.guard() as client:
                for key in await client.keys(f"{prefix}:{{thread:a}}*"):
                    left = await client.pttl(key)
                    assert 0 < left <= 1500 * ttl
                    await client.pexpire(key, left - 900 * ttl)  # so much time has passed
        assert len((await graph.aget_state(config)).values["notes"]) == 10


async def test_a_task_that_runs_again_keeps_what_it_wrote_and_renews_what_interrupted_it(saver):
    config = {"configurable": {"thread_id": "a", "checkpoint_ns": ""}}
    config = await saver.aput(config, empty_checkpoint(), {}, {})
    for run in ("first", "second"):
        await saver.aput_writes(config, [("notes", run), (INTERRUPT, run)], "task")
    written = {channel: value for _, channel, value in (await saver.aget_tuple(config))[4]}
    assert written == {"notes": "first", INTERRUPT: "second"}


async def test_writes_of_a_thread_that_only_waits_for_more_of_them_live_on(server):
    prefix, ttl = f"t{secrets.token_hex(4)}", 1000
    config = {"configurable": {"thread_id": "a", "checkpoint_ns": ""}}
    async with await TorporSaver.connect(server.url, prefix=prefix, ttl=ttl) as brief:
        config = await brief.aput(config, empty_checkpoint(), {}, {})
        await brief.aput_writes(config, [("notes", "early")], "task")
        latest = await brief.aput(config, empty_checkpoint(), {}, {})
        async with brief._control.guard() as client:
            (early,) = await client.keys(f"{prefix}:{{thread:a}}:writes:*")
            await client.pexpire(early, 600 * ttl)  # 900 s have passed
            await client.delete(ThreadKeys(prefix, "a").renewed)
            await brief.aput_writes(latest, [("notes", "late")], "task")
            assert await client.pttl(early) > 1400 * ttl


async def test_only_so_many_checkpoints_are_kept(server):
    prefix = f"t{secrets.token_hex(4)}"
    async with await TorporSaver.connect(server.url, prefix=prefix, keep=5) as brief:
        for _ in range(6):
            messages = await say(talker(brief), "a")
        kept = [found async for found in brief.alist({"configurable": {"thread_id": "a"}})]
        assert 5 <= len(kept) < 5 + 16
        assert kept[0].checkpoint["channel_values"]["messages"] == messages


async def test_a_checkpoint_put_while_values_are_swept_keeps_its_values(saver):
    graph = talker(saver)
    await say(graph, "a")

    async def prune():
        for _ in range(30):
            await saver.aprune(["a"])

    async def talk():
        for _ in range(4):
            await say(graph, "a")

    await asyncio.gather(prune(), talk())
    found = await saver.aget_tuple({"configurable": {"thread_id": "a"}})
    assert len(found.checkpoint["channel_values"]["messages"]) == 50


async def test_a_run_takes_its_checkpoints_along_but_not_what_others_are_rebuilt_from(
    saver, caplog
):
    graph = note_taker(saver)
    for run in ("r1", "r2"):
        config = {"configurable": {"thread_id": "a"}, "metadata": {"run_id": run}}
        await graph.ainvoke({"notes": ["asked"]}, config)
    before = (await graph.aget_state({"configurable": {"thread_id": "a"}})).values
    await saver.adelete_for_runs(["r1"])
    assert (await graph.aget_state({"configurable": {"thread_id": "a"}})).values == before
    assert "of run r1 in thread a stay" in caplog.text


async def test_bad_options_are_refused(server):
    for ttl in (0, 0.0001):
        with pytest.raises(InvalidArgument, match="no time that anything can live"):
            await TorporSaver.connect(server.url, ttl=ttl)
    with pytest.raises(InvalidArgument, match="saves nothing"):
        await TorporSaver.connect(server.url, keep=0)
    async with await TorporSaver.connect(server.url) as saver:
        with pytest.raises(BadRequest, match="not a strategy"):
            await saver.aprune(["a"], strategy="keep_oldest")


async def test_values_that_are_not_stored_anew_stay(saver):
    config = {"configurable": {"thread_id": "a", "checkpoint_ns": ""}}
    first = empty_checkpoint() | {
        "channel_values": {"x": [1] * 10}, "channel_versions": {"x": "1"},
    }  # fmt: skip
    config = await saver.aput(config, first, {}, {"x": "1"})
    second = empty_checkpoint() | {
        "channel_values": {"x": [1] * 10}, "channel_versions": {"x": "1"},
    }  # fmt: skip
    await saver.aput(config, second, {}, {})
    found = await saver.aget_tuple({"configurable": {"thread_id": "a"}})
    assert found.checkpoint["channel_values"] == {"x": [1] * 10}
    assert found.parent_config["configurable"]["checkpoint_id"] == first["id"]


@dataclass
class Plan:
    goal: str


async def test_only_classes_that_were_named_are_made_from_a_checkpoint(server):
    config = {"configurable": {"thread_id": "a", "checkpoint_ns": ""}}
    whole = empty_checkpoint() | {
        "channel_values": {"plan": Plan("rest")}, "channel_versions": {"plan": "1"},
    }  # fmt: skip
    made = []
    for types in ([Plan], []):
        prefix = f"t{secrets.token_hex(4)}"
        async with await TorporSaver.connect(server.url, prefix=prefix, types=types) as careful:
            await careful.aput(config, whole, {}, {"plan": "1"})
            found = await careful.aget_tuple(config)
            made.append(found.checkpoint["channel_values"]["plan"])
    assert made[0] == Plan("rest")
    assert not isinstance(made[1], Plan)
