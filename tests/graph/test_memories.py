"""LangGraph's long-term memory on a real Redis-compatible server."""

import secrets
import time

import pytest
import redis
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import InvalidNamespaceError, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from agent_runtime.errors import AsyncOnly, BadRequest, NoSemanticSearch
from agent_runtime.saver import TorporStore
from agent_runtime.saver.memories import _Entry


@pytest.fixture
async def memories(server):
    async with await TorporStore.connect(server.url, prefix=f"t{secrets.token_hex(4)}") as opened:
        yield opened


async def fill(store):
    await store.aput(("users", "ann"), "likes", {"food": "bread", "age": 30})
    await store.aput(("users", "ann", "pets"), "cat", {"name": "Mog", "age": 3})
    await store.aput(("users", "bob"), "likes", {"food": "fish", "age": 40})
    await store.aput(("users", "annabel"), "likes", {"food": "rice", "age": 50})
    await store.aput(("plans",), "today", {"done": False, "by": {"who": "ann"}})


QUESTIONS = [
    {"namespace_prefix": ("users",)},
    {"namespace_prefix": ("users", "ann")},
    {"namespace_prefix": ()},
    {"namespace_prefix": ("users",), "filter": {"food": "fish"}},
    {"namespace_prefix": ("users",), "filter": {"age": {"$gte": 30, "$lt": 50}}},
    {"namespace_prefix": ("users",), "filter": {"age": {"$ne": 30}}},
    {"namespace_prefix": ("nobody",)},
]


@pytest.mark.parametrize("question", QUESTIONS)
async def test_searches_find_what_the_reference_finds(memories, question):
    found = []
    for store in (memories, InMemoryStore()):
        await fill(store)
        (items,) = await store.abatch([SearchOp(**question, limit=100)])
        found.append(sorted((item.namespace, item.key, str(item.value)) for item in items))
    assert found[0] == found[1]


async def test_namespaces_are_listed_as_the_reference_lists_them(memories):
    asked = (
        {},
        {"prefix": ("users",)},
        {"suffix": ("pets",)},
        {"prefix": ("users", "*"), "max_depth": 2},
        {"max_depth": 1},
    )
    for options in asked:
        found = []
        for store in (memories, InMemoryStore()):
            await fill(store)
            found.append(sorted(await store.alist_namespaces(**options)))
        assert found[0] == found[1]


async def test_pages_of_a_search_do_not_overlap(memories):
    for number in range(25):
        await memories.aput(("many",), f"{number:02}", {"number": number})
    pages = [await memories.asearch(("many",), limit=10, offset=at) for at in (0, 10, 20)]
    assert [item.value["number"] for page in pages for item in page] == list(range(25))


async def test_an_item_keeps_its_birth_and_can_be_deleted(memories):
    await memories.aput(("a",), "k", {"n": 1})
    first = await memories.aget(("a",), "k")
    await memories.aput(("a",), "k", {"n": 2})
    second = await memories.aget(("a",), "k")
    assert second.value == {"n": 2}
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at
    await memories.adelete(("a",), "k")
    assert await memories.aget(("a",), "k") is None
    assert await memories.asearch(("a",)) == []


async def test_items_expire_unless_they_are_read(memories):
    await memories.aput(("a",), "read", {}, ttl=2 / 60)
    await memories.aput(("a",), "unread", {}, ttl=2 / 60)
    begun = time.time()
    while time.time() < begun + 2.5:
        if time.time() < begun + 1.5:
            assert await memories.aget(("a",), "read")
    assert await memories.aget(("a",), "unread") is None
    found = await memories.asearch(("a",))
    assert [item.key for item in found] == ["read"]


async def test_what_it_cannot_do_is_refused(memories):
    with pytest.raises(NoSemanticSearch):
        await memories.asearch(("a",), query="something like it")
    with pytest.raises(AsyncOnly):
        memories.get(("a",), "k")
    await fill(memories)
    with pytest.raises(BadRequest, match="not an operator"):
        await memories.asearch(("users",), filter={"age": {"$near": 3}})
    with pytest.raises(InvalidNamespaceError):
        await memories.abatch([PutOp(("a.b",), "k", {})])


async def test_a_graph_reaches_its_memory(memories):
    async def remember(state: dict, *, store) -> dict:
        await store.aput(("facts",), "last", {"said": state["text"]})
        return {}

    graph = StateGraph(dict)
    graph.add_node("remember", remember)
    graph.add_edge(START, "remember")
    graph.add_edge("remember", END)
    await graph.compile(store=memories).ainvoke({"text": "hello"})
    assert (await memories.aget(("facts",), "last")).value == {"said": "hello"}


class _Overtaken(TorporStore):
    """One that another writer is faster than, whenever it has read something."""

    async def _entries(self, root, places):
        found = await super()._entries(root, places)
        async with await TorporStore.connect(self._control.url, prefix=self._prefix) as other:
            await other.aput(("a",), "k", {"n": 2}, ttl=60)
        return found


async def test_reading_an_item_takes_nothing_back_that_was_written_meanwhile(server, memories):
    await memories.aput(("a",), "k", {"n": 1}, ttl=60)
    async with await _Overtaken.connect(server.url, prefix=memories._prefix) as overtaken:
        assert (await overtaken.aget(("a",), "k", refresh_ttl=True)).value == {"n": 1}
    assert (await memories.aget(("a",), "k")).value == {"n": 2}


async def test_an_expired_item_that_is_written_anew_is_not_removed(server, memories):
    class Overtaken(TorporStore):
        def _unpack(self, place, packed):
            with redis.Redis.from_url(server.url) as client:
                client.hset(self._items("a"), b"a\0k", self._pack(place, fresh))
            return super()._unpack(place, packed)

    fresh = _Entry.new({"n": 2}, None, None)
    await memories.aput(("a",), "k", {"n": 1}, ttl=1e-6)
    async with await Overtaken.connect(server.url, prefix=memories._prefix) as overtaken:
        assert await overtaken.aget(("a",), "k") is None
    assert (await memories.aget(("a",), "k")).value == {"n": 2}
    assert len(await memories.asearch(("a",))) == 1
