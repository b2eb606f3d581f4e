"""What the checkpointer serializes and makes once, and that nobody can tell."""

import secrets
from datetime import UTC, datetime

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.base import empty_checkpoint

from agent_runtime.errors import CheckpointLost
from agent_runtime.saver import TorporSaver
from agent_runtime.saver.keys import ThreadKeys
from agent_runtime.saver.memo import Memo, fingerprint
from agent_runtime.saver.values import CHUNK

LENGTH = 2 * CHUNK + 8  # messages


def talk(length=LENGTH):
    kinds = [
        lambda n: HumanMessage(f"question {n}", id=f"{n}"),
        lambda n: AIMessage(
            [{"type": "text", "text": f"answer {n}", "seen": [{"at": n}]}],
            id=f"{n}",
            additional_kwargs={"deep": {"list": [1, {"of": "all"}]}, "next": None},
            tool_calls=[{"name": "add", "args": {"x": {"y": 1}}, "id": f"c{n}"}],
            usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        ),
        lambda n: ToolMessage(f"result {n}", tool_call_id=f"c{n - 1}", artifact={"is": 1}),
    ]
    return [kinds[n % 3](n) for n in range(length)]


CONFIG = {"configurable": {"thread_id": "a", "checkpoint_ns": ""}}


async def put(saver, messages, config=CONFIG):
    version = secrets.token_hex(4)
    whole = empty_checkpoint() | {
        "channel_values": {"messages": messages}, "channel_versions": {"messages": version},
    }  # fmt: skip
    return await saver.aput(config, whole, {}, {"messages": version})


async def got(saver, config=CONFIG):
    found = await saver.aget_tuple(config)
    return found.checkpoint["channel_values"]["messages"]


def exactly(messages):
    """With the types of all that is in them, which equality does not tell apart."""
    return [(type(one), repr(sorted(one.__dict__.items())), one.__pydantic_extra__)
            for one in messages]  # fmt: skip


CHANGES = {
    "its words": lambda talk: setattr(talk[0], "content", "another question"),
    "a content block": lambda talk: talk[1].content[0]["seen"][0].update(at=True),
    "what is deep inside": lambda talk: talk[1].additional_kwargs["deep"]["list"][1].clear(),
    "an argument of a call": lambda talk: talk[1].tool_calls[0]["args"]["x"].update(y=1.0),
    "the order of keys": lambda talk: talk[1].additional_kwargs.update(
        deep=talk[1].additional_kwargs.pop("deep")
    ),
    "an artifact": lambda talk: setattr(talk[2], "artifact", {"is": True}),
    "something of another class": lambda talk: setattr(
        talk[2], "artifact", {"at": datetime(2026, 1, 1, tzinfo=UTC), "some": {1}}
    ),
    "a field of the caller's": lambda talk: setattr(talk[0], "mood", ["good"]),
    "which message it is": lambda talk: talk.__setitem__(0, AIMessage("question 0", id="0")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_message_that_was_changed_in_place_is_stored_as_it_is_now(saver, change):
    messages = talk()
    before = await put(saver, messages)
    unchanged = saver.serde.loads_typed(saver.serde.dumps_typed(messages))
    await put(saver, messages, before)
    change(messages)
    after = await put(saver, messages, before)
    expected = saver.serde.loads_typed(saver.serde.dumps_typed(messages))
    assert exactly(expected) != exactly(unchanged)
    for config, wanted in ((after, expected), (before, unchanged)) * 2:
        assert exactly(await got(saver, config)) == exactly(wanted)


async def test_messages_that_were_handed_out_are_nobody_elses(saver):
    await put(saver, talk())
    pristine = exactly(await got(saver))
    for _ in range(3):
        messages = await got(saver)
        assert exactly(messages) == pristine
        for change in CHANGES.values():
            change(messages)
        messages[1].additional_kwargs["deep"].clear()


class Counting:
    """A serializer's calls."""

    def __init__(self, serde, monkeypatch):
        self.dumped = self.loaded = 0
        dumps, loads = serde.dumps_typed, serde.loads_typed

        def count_dumps(value):
            self.dumped += 1
            return dumps(value)

        def count_loads(value):
            self.loaded += 1
            return loads(value)

        monkeypatch.setattr(serde, "dumps_typed", count_dumps)
        monkeypatch.setattr(serde, "loads_typed", count_loads)


async def test_a_message_is_serialized_once_and_made_once_however_often_the_list_is(
    saver, monkeypatch
):
    messages = talk(10 * CHUNK)
    counting = Counting(saver.serde, monkeypatch)
    await put(saver, messages)
    assert counting.dumped >= len(messages)
    await got(saver)
    assert counting.loaded >= len(messages)
    counting.dumped = counting.loaded = 0
    for more in range(3):
        messages = [*await got(saver), HumanMessage("more", id=f"more {more}")]
        await put(saver, messages)
    few = 3 * CHUNK
    assert counting.dumped < few
    assert counting.loaded < few


async def test_messages_that_the_process_has_do_not_come_over_the_wire_again(saver):
    await put(saver, talk(10 * CHUNK))
    sent = []
    for _ in range(2):
        async with saver._control.guard() as client:
            before = await client.info("stats")
            await got(saver)
            after = await client.info("stats")
            sent.append(after["total_net_output_bytes"] - before["total_net_output_bytes"])
    async with saver._control.guard() as client:
        overhead = len(repr(await client.info("stats")))
    assert sent[1] - overhead < (sent[0] - overhead) / 10


async def test_a_loss_in_the_store_is_told_although_the_process_has_the_messages(saver):
    await put(saver, talk())
    await got(saver)
    items = ThreadKeys(saver._prefix, "a").items
    async with saver._control.guard() as client:
        for digest, body in (await client.hgetall(items)).items():
            if b"question 3" in body:
                await client.hdel(items, digest)
    with pytest.raises(CheckpointLost):
        await got(saver)


async def test_what_another_process_swept_is_stored_again(server, saver):
    messages = talk()
    await put(saver, messages)
    async with await TorporSaver.connect(server.url, prefix=saver._prefix) as other:
        await put(other, ["nothing"] * 8)
        await other.aprune(["a"])
    await put(saver, messages)
    assert exactly(await got(saver)) == exactly(messages)
    async with await TorporSaver.connect(server.url, prefix=saver._prefix) as other:
        assert exactly(await got(other)) == exactly(messages)


class Impostor(HumanMessage):
    pass


class Text(str):
    pass


def test_a_fingerprint_is_of_all_that_messages_hold_or_none():
    def of(value):
        return fingerprint([HumanMessage("hello", additional_kwargs={"a": value})])

    told_apart = [1, True, 1.0, "1", b"1", None, [1], {"1": 1}, [], {}, 0, False, 0.0, -0.0, ""]
    assert len({of(value) for value in told_apart} - {None}) == len(told_apart)
    assert of({"a": [1, {"b": None}]}) == of({"a": [1, {"b": None}]})
    for unknown in ((1,), {1}, Text("a"), datetime(2026, 1, 1, tzinfo=UTC), {1: 2}, 1 << 70, Memo):
        assert of(unknown) is None, unknown
    assert fingerprint([Impostor("hello")]) is None
    assert fingerprint(["hello"]) is None
    disguised = HumanMessage("a")
    disguised.type = "system"
    assert disguised.__dict__ == SystemMessage("a").__dict__
    assert fingerprint([disguised]) != fingerprint([SystemMessage("a")])


def test_a_memo_forgets_what_was_used_longest_ago():
    memo = Memo(most_names=2, most_bytes=3000)
    for number in b"abc":
        memo.learn(bytes([number]), b"name")
    assert [memo.name(bytes([number])) for number in b"abc"] == [None, b"name", b"name"]
    for thread in ("a", "b"):
        for name in (b"1", b"2"):
            memo.keep((None, thread), name, [HumanMessage("x" * 1000)])
    assert memo.held((None, "a")) == {}
    assert list(memo.held((None, "b"))) == [b"2", b"1"]
    memo.remade((None, "b"), b"1", memo.held((None, "b"))[b"1"])
    memo.keep((None, "c"), b"3", [HumanMessage("x" * 1000)])
    assert list(memo.held((None, "b"))) == [b"1"]
    memo.keep((None, "c"), b"4", ["not a message"])
    assert list(memo.held((None, "c"))) == [b"3"]
