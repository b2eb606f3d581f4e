"""Checkpoints and memories of an encrypted tenant: what was said is nowhere in the store."""

import operator
import secrets
from typing import Annotated, Any, TypedDict

import pytest
import redis
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from agent_runtime.saver import TorporSaver, TorporStore
from agent_runtime.saver.sealing import Sealing
from state_store.errors import CorruptObject, NotFound, VaultLocked
from state_store.store import StateStore
from state_store.vault import MasterKey, TenantKey, Vault

VAULT = Vault([MasterKey(bytes(range(32)))])
THREAD = {"configurable": {"thread_id": "a-thread"}}


class Talk(TypedDict):
    messages: Annotated[list[Any], operator.add]
    note: dict[str, Any]


@pytest.fixture
def canary():
    return secrets.token_hex(12)


@pytest.fixture
async def tenant(own_server):
    async with await StateStore.connect(own_server.url, vault=VAULT) as store:
        await store.create_tenant("ann", encrypted=True)
        await store.create_tenant("cleo", encrypted=False)
        yield "ann"
        assert (await store.check_integrity()).problems == []


@pytest.fixture
async def saver(own_server, tenant):
    async with await TorporSaver.connect(own_server.url, tenant=tenant, vault=VAULT) as opened:
        yield opened


def graph_of(saver, canary):
    def answer(state):
        said = state["messages"][-1].content
        return {
            "messages": [AIMessage(f"You said {said}. {canary}")],
            "note": {"of": canary},
        }

    def ask(state):
        interrupt(f"may I? {canary}")

    builder = StateGraph(Talk)
    builder.add_node("answer", answer)
    builder.add_node("ask", ask)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", "ask")
    builder.add_edge("ask", END)
    return builder.compile(checkpointer=saver)


def all_of(server):
    """Every key and value of the store, in the bytes that it would write to a file."""
    with redis.Redis.from_url(server.url) as client:
        names = list(client.scan_iter(count=1000))
        return b"\0".join(name + b"=" + (dump(client, name)) for name in names)


def dump(client, name):
    readers = {
        b"string": lambda: [client.get(name)],
        b"hash": lambda: [part for pair in client.hgetall(name).items() for part in pair],
        b"set": lambda: client.smembers(name),
        b"zset": lambda: client.zrange(name, 0, -1),
        b"list": lambda: client.lrange(name, 0, -1),
    }
    return b"\0".join(readers[client.type(name)]())


async def talked(saver, canary, turns=12):
    graph = graph_of(saver, canary)
    for number in range(turns):
        said = {"messages": [HumanMessage(f"{number}: {canary}")], "note": {}}
        await graph.ainvoke(said, THREAD)
    return graph


async def test_what_was_said_is_read_back_and_is_nowhere_in_the_store(own_server, saver, canary):
    graph = await talked(saver, canary)
    before = (await graph.aget_state(THREAD)).values
    assert len(before["messages"]) >= 24  # a list in chunks, and not one short value
    assert before["note"] == {"of": canary}
    found = all_of(own_server)
    assert b"a-thread" in found  # what is readable is
    assert b"messages" in found
    assert canary.encode() not in found
    assert canary.encode() not in own_server_log(own_server)

    # Another process with the key has the same, its history and a copy of the thread too.
    async with await TorporSaver.connect(own_server.url, tenant="ann", vault=VAULT) as other:
        again = graph_of(other, canary)
        assert (await again.aget_state(THREAD)).values == before
        assert len([one async for one in again.aget_state_history(THREAD)]) > 12
        await other.acopy_thread("a-thread", "a-copy")
        copy = {"configurable": {"thread_id": "a-copy"}}
        assert (await again.aget_state(copy)).values == before
        await other.aprune(["a-copy"])
        assert (await again.aget_state(copy)).values == before
    assert canary.encode() not in all_of(own_server)


async def test_the_same_is_found_of_a_tenant_in_the_clear(own_server, tenant, canary):
    """So that the search above can find it."""
    async with await TorporSaver.connect(own_server.url, tenant="cleo") as clear:
        await talked(clear, canary)
    assert canary.encode() in all_of(own_server)
    assert canary.encode() in own_server_log(own_server)


async def test_items_that_are_the_same_are_stored_once_and_their_names_are_keyed(
    own_server, saver, canary
):
    graph = await talked(saver, canary)
    with redis.Redis.from_url(own_server.url) as client:
        (items,) = [key for key in client.scan_iter() if key.endswith(b"}:items")]
        names = set(client.hkeys(items))
    messages = (await graph.aget_state(THREAD)).values["messages"]
    assert len(names) <= len(messages) * 2 + 16  # and the chunks
    async with await TorporSaver.connect(own_server.url) as nobodys:
        clear = graph_of(nobodys, canary)
        await clear.ainvoke({"messages": messages, "note": {}}, THREAD)
    with redis.Redis.from_url(own_server.url) as client:
        open_names = set(client.hkeys("torpor:graph:{thread:a-thread}:items"))
    assert open_names
    assert not names & open_names


async def test_a_value_opens_only_in_its_place(own_server, saver, canary):
    await talked(saver, canary, turns=4)
    with redis.Redis.from_url(own_server.url) as client:
        (rows,) = [key for key in client.scan_iter() if key.endswith(b"}:rows")]
        fields = sorted(client.hkeys(rows))
        client.hset(rows, fields[-1], client.hget(rows, fields[0]))
    with pytest.raises(CorruptObject):
        await saver.aget_tuple(THREAD)


async def test_without_the_key_or_the_tenant_it_is_not_opened(own_server, tenant, canary):
    with pytest.raises(VaultLocked, match="ann is encrypted under"):
        await TorporSaver.connect(own_server.url, tenant="ann")
    for kind in (TorporSaver, TorporStore):
        with pytest.raises(NotFound, match="no tenant nobody"):
            await kind.connect(own_server.url, tenant="nobody", vault=VAULT)


async def test_memories_are_sealed_and_found(own_server, tenant, canary):
    connect = TorporStore.connect
    async with await connect(own_server.url, tenant=tenant, vault=VAULT) as memories:
        await memories.aput(("users", "a-user"), "a-key", {"likes": canary, "n": 1}, ttl=5)
        await memories.aput(("users", "a-user"), "b-key", {"likes": "bread", "n": 2})
        (found,) = await memories.asearch(("users",), filter={"likes": canary})
        assert (found.key, found.value["n"]) == ("a-key", 1)
        assert (await memories.aget(("users", "a-user"), "a-key")).value["likes"] == canary
    stored = all_of(own_server)
    assert canary.encode() not in stored
    assert b"a-user" in stored
    assert b"a-key" in stored
    async with await connect(own_server.url) as nobodys:
        assert await nobodys.asearch(("users",)) == []


def test_no_repr_shows_a_key():
    sealing = Sealing.of(TenantKey(bytes(range(32))), "torpor:graph:of:ann")
    assert len(sealing.digest_key) == 32
    assert repr(sealing.digest_key) not in repr(sealing)


async def test_two_tenants_have_threads_of_the_same_name(own_server, saver, canary):
    await talked(saver, canary, turns=1)
    async with await TorporSaver.connect(own_server.url, tenant="cleo") as other:
        assert await other.aget_tuple(THREAD) is None
        assert [one async for one in other.alist(None)] == []


def own_server_log(server):
    return b"".join(p.read_bytes() for p in server.data_dir.rglob("*") if p.is_file())
