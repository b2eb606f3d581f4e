"""LangGraph's checkpointers over one long thread each, in turn, with the same conversation.

    turn n ── TorporSaver ── plain Redis ── SQLite ── memory ── turn n + 1 …

A turn is one run of a graph that answers: it reads the thread's last checkpoint, and writes three.
What is timed is the savers' own methods as the graph calls them, serialization included. The
peers come with `pip install torpor[bench]`. `langgraph-checkpoint-redis` is not among them: it
needs a Redis with the modules for JSON and search, and the servers here are plain.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import redis
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph, add_messages
from langgraph_checkpoint_plainredis import AsyncRedisSaver

from agent_runtime.bench.spread import power, quartiles
from agent_runtime.deployment import emptied
from agent_runtime.saver.checkpoints import TorporSaver
from state_store.embedded import EmbeddedServer

_WORDS = 30  # of a message
_VOCABULARY = ("harbour", "licence", "tide", "warranty", "mile", "anchor", "letter", "quay", "rope")
_METHODS = {
    "aput": "put",
    "aput_writes": "put",
    "aget_tuple": "get",
    "aget_delta_channel_history": "get",
}
_POINTS = 8  # at which bytes are counted
_is_timed: ContextVar[bool] = ContextVar("is_timed", default=False)


class _Whole(TypedDict):
    """Every checkpoint has a new version of the whole list."""

    messages: Annotated[list[AnyMessage], add_messages]


class _Delta(TypedDict):
    """LangGraph's remedy: what is new is written, and the list every now and then."""

    messages: Annotated[
        list[AnyMessage], DeltaChannel(lambda have, new: [*have, *(m for w in new for m in w)])
    ]


_CHANNELS: dict[str, type] = {"whole": _Whole, "delta": _Delta}


@dataclass
class _Side:
    """One saver. size: bytes that it keeps now; spent: method -> seconds of each turn"""

    name: str
    saver: Any
    size: Callable[[], int]
    graph: Any = None
    spent: dict[str, list[float]] = field(default_factory=lambda: {"put": [], "get": []})
    sizes: list[int] = field(default_factory=list)


async def measure(*, turns: int, data: Path) -> AsyncIterator[dict[str, Any]]:
    """A record for each saver and kind of channel, then one that says where ours loses."""
    loses: list[str] = []
    for channel, state in _CHANNELS.items():
        emptied(data / channel)
        async with contextlib.AsyncExitStack() as stack:
            sides = await _sides(stack, data / channel)
            for side in sides:
                side.graph = _graph(state, side.saver)
                _time(side)
            points = sorted({round(turns ** (n / _POINTS)) for n in range(1, _POINTS + 1)})
            await _converse(sides, turns, points)
            records = [_record(side, channel, turns, points) for side in sides]
        for record in records:
            yield record
        loses += _losses(records)
    yield {"bench": "savers", "measure": "goal", "met": not loses, "loses": loses}


async def _sides(stack: contextlib.AsyncExitStack, data: Path) -> list[_Side]:
    ours, theirs = (
        stack.enter_context(EmbeddedServer(data / name)) for name in ("torpor", "plain")
    )
    saver = await stack.enter_async_context(await TorporSaver.connect(ours.url))
    plain = AsyncRedisSaver(url=theirs.url)
    stack.push_async_callback(plain.aclose)
    file = data / "checkpoints.sqlite"
    sqlite = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(file)))
    memory = InMemorySaver()
    return [
        _Side("torpor", saver, lambda: _used(ours)),
        _Side("plainredis", plain, lambda: _used(theirs)),
        _Side("sqlite", sqlite, lambda: sum(f.stat().st_size for f in data.glob(f"{file.name}*"))),
        _Side("memory", memory, lambda: _held(memory)),
    ]


def _used(server: EmbeddedServer) -> int:
    with redis.Redis.from_url(server.url) as client:
        return int(client.info("memory")["used_memory_dataset"])


def _held(saver: InMemorySaver) -> int:
    """Bytes of what it serialized."""
    blobs = sum(len(data) for _, data in saver.blobs.values())
    rows = [
        row for thread in saver.storage.values() for ns in thread.values() for row in ns.values()
    ]
    writes = [write[2] for group in saver.writes.values() for write in group.values()]
    return (
        blobs
        + sum(len(checkpoint[1]) + len(metadata[1]) for checkpoint, metadata, _ in rows)
        + sum(len(data) for _, data in writes)
    )


def _graph(state: type, saver: Any) -> Any:
    graph: Any = StateGraph(state)
    graph.add_node("answer", lambda held: {"messages": [_said(AIMessage, len(held["messages"]))]})
    graph.add_edge(START, "answer")
    return graph.compile(checkpointer=saver)


def _said(kind: type[AIMessage] | type[HumanMessage], number: int) -> AnyMessage:
    words = random.Random(number).choices(_VOCABULARY, k=_WORDS)
    return kind(content=" ".join(words), id=f"message-{number}")


def _time(side: _Side) -> None:
    """Have every call of the saver's methods timed."""
    clocks = {sort: _Clock(spent) for sort, spent in side.spent.items()}
    for method, sort in _METHODS.items():
        setattr(side.saver, method, _timed(getattr(side.saver, method), clocks[sort]))


@dataclass
class _Clock:
    """Runs while one call or more are under way: LangGraph writes what a task returned and puts the
    next checkpoint at the same time. spent: seconds of each turn"""

    spent: list[float]
    calls: int = 0
    started: float = 0.0

    def begin(self) -> None:
        if not self.calls:
            self.started = time.perf_counter()
        self.calls += 1

    def end(self) -> None:
        self.calls -= 1
        if not self.calls:
            self.spent[-1] += time.perf_counter() - self.started


def _timed(method: Callable[..., Awaitable[Any]], clock: _Clock) -> Callable[..., Awaitable[Any]]:
    async def timed(*arguments: Any, **options: Any) -> Any:
        if _is_timed.get():  # called by another one, which is
            return await method(*arguments, **options)
        timing = _is_timed.set(True)
        clock.begin()
        try:
            return await method(*arguments, **options)
        finally:
            clock.end()
            _is_timed.reset(timing)

    return timed


async def _converse(sides: Sequence[_Side], turns: int, points: Sequence[int]) -> None:
    for number in range(turns):
        shift = number % len(sides)
        for side in (*sides[shift:], *sides[:shift]):
            for spent in side.spent.values():
                spent.append(0.0)
            question = _said(HumanMessage, 2 * number)
            config = {"configurable": {"thread_id": "long"}}
            answered = await side.graph.ainvoke({"messages": [question]}, config, durability="sync")
            assert len(answered["messages"]) == 2 * number + 2, f"{side.name} lost a message"
        if number + 1 in points:
            for side in sides:
                side.sizes.append(side.size())


def _record(side: _Side, channel: str, turns: int, points: Sequence[int]) -> dict[str, Any]:
    few = max(1, turns // 10)
    late = [(turn, size) for turn, size in zip(points, side.sizes, strict=True) if turn >= few]
    return {
        "bench": "savers",
        "saver": side.name,
        "channel": channel,
        "turns": turns,
        **{
            f"{sort}_ms_{when}": round(statistics.median(some) * 1e3, 3)
            for sort, spent in side.spent.items()
            for when, some in (("first", spent[:few]), ("last", spent[-few:]))
        },
        **{
            f"{sort}_ms_last_quartiles": quartiles([one * 1e3 for one in spent[-few:]], 3)
            for sort, spent in side.spent.items()
        },
        "bytes_per_turn": side.sizes[-1] // turns,
        "bytes_exponent": power(*zip(*late, strict=True)),
    }


def _losses(records: Sequence[dict[str, Any]]) -> list[str]:
    ours, *peers = records
    return [
        f"{name} to {peer['saver']} with {peer['channel']} channels: {ours[name]} to {peer[name]}"
        for name in ("put_ms_last", "get_ms_last", "bytes_per_turn")
        for peer in peers
        if ours[name] > peer[name]
    ]
