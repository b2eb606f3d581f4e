"""Graphs that are invoked, not awaited, have their checkpoints and memory in the store."""

import asyncio
import operator
import secrets
from typing import Annotated, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from agent_runtime.errors import AsyncOnly
from agent_runtime.saver import TorporSaver, TorporStore
from state_store.connection import Control
from state_store.errors import StoreUnavailable


class Talk(TypedDict):
    said: Annotated[list[str], operator.add]


def answer(state):
    return {"said": [f"You said {state['said'][-1]}."]}


def confirm(state):
    return {"said": [interrupt("Is that all?")]}


def graph_of(saver, **options):
    builder = StateGraph(Talk)
    builder.add_node("answer", answer)
    builder.add_node("confirm", confirm)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", "confirm")
    builder.add_edge("confirm", END)
    return builder.compile(checkpointer=saver, **options)


THREAD = {"configurable": {"thread_id": "ann"}}


@pytest.fixture
def prefix():
    return f"t{secrets.token_hex(4)}"


def test_a_graph_is_invoked_interrupted_and_goes_on_in_another_process_of_the_same_store(
    server, prefix
):
    with TorporSaver.blocking(server.url, prefix=prefix) as saver:
        assert "__interrupt__" in graph_of(saver).invoke({"said": ["hello"]}, THREAD)
    with TorporSaver.blocking(server.url, prefix=prefix) as saver:
        graph = graph_of(saver)
        assert graph.get_state(THREAD).next == ("confirm",)
        done = graph.invoke(Command(resume="yes"), THREAD)
        assert done["said"] == ["hello", "You said hello.", "yes"]
        lengths = [len(state.values["said"]) for state in graph.get_state_history(THREAD)]
        assert lengths == [3, 2, 1, 0]


def test_histories_are_cut_copied_pruned_and_deleted_without_awaiting(server, prefix):
    with TorporSaver.blocking(server.url, prefix=prefix) as saver:
        graph = graph_of(saver)
        graph.invoke({"said": ["hello"]}, THREAD)
        assert len(list(saver.list(THREAD, limit=2))) == 2
        first = next(saver.list(THREAD))
        assert first.checkpoint["id"] == saver.get_tuple(THREAD).checkpoint["id"]
        saver.copy_thread("ann", "bob")
        copied = {"configurable": {"thread_id": "bob"}}
        assert graph.get_state(copied).values == graph.get_state(THREAD).values
        saver.prune(["bob"])
        assert len(list(saver.list(copied))) == 1
        saver.delete_thread("ann")
        assert saver.get_tuple(THREAD) is None


def test_memory_is_read_and_written_without_awaiting(server, prefix):
    with TorporStore.blocking(server.url, prefix=prefix) as memories:
        memories.put(("users", "ann"), "likes", {"food": "bread"})
        assert memories.get(("users", "ann"), "likes").value == {"food": "bread"}
        assert [item.key for item in memories.search(("users",))] == ["likes"]


async def test_other_threads_of_a_process_with_a_loop_need_not_await(server, prefix):
    async with await TorporSaver.connect(server.url, prefix=prefix) as saver:
        graph = graph_of(saver)
        said = await asyncio.to_thread(graph.invoke, {"said": ["hello"]}, THREAD)
        assert said["said"] == (await graph.aget_state(THREAD)).values["said"]


async def test_a_loop_is_not_made_to_wait_for_itself(server, prefix):
    async with await TorporSaver.connect(server.url, prefix=prefix) as saver:
        with pytest.raises(AsyncOnly, match="would wait for itself"):
            graph_of(saver).invoke({"said": ["hello"]}, THREAD)
        with pytest.raises(AsyncOnly, match="would wait for itself"):
            next(saver.list(THREAD))


def test_a_saver_without_a_loop_says_how_to_get_one(server):
    saver = TorporSaver(Control(server.url, timeout=1.0))
    with pytest.raises(AsyncOnly, match=r"TorporSaver\.blocking"):
        saver.get_tuple(THREAD)


def test_a_store_that_is_not_there_is_told_before_anything_runs(tmp_path):
    with (
        pytest.raises(StoreUnavailable),
        TorporSaver.blocking(f"unix://{tmp_path}/none.sock", timeout=0.5),
    ):
        pass
