"""Engines announce themselves and answer commands through the store, or are known to be silent."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time

import msgpack
import pytest

from state_store.errors import (
    EngineFailed,
    EngineIdTaken,
    EngineSilent,
    OtherProtocol,
    StoreUnavailable,
)
from state_store.protocol import PROTOCOL
from state_store.registry import CommandListener, Heartbeat, engine_key
from state_store.store import StateStore

RECORD = {"protocol": PROTOCOL, "engine_id": "e", "boot_id": "first"}


@pytest.fixture(autouse=True)
def short_polls(monkeypatch):
    monkeypatch.setattr("state_store.registry.POLL", 0.1)
    monkeypatch.setattr("state_store.registry._RETRY", 0.05)
    monkeypatch.setattr("state_store.registry._MARGIN", 0.2)


@pytest.fixture
def listen(server, prefix):
    """Start a listener of engine `e`; all are stopped at the end."""
    started = []

    def start(handlers, *, rank=0, url=server.url):
        listener = CommandListener(url, "e", rank, handlers, prefix=prefix)
        listener.start()
        started.append(listener)

    yield start
    for listener in started:
        listener.stop()


@pytest.fixture
def heartbeat(server, prefix):
    beating = Heartbeat(server.url, "e", RECORD, ttl=0.3, prefix=prefix)
    yield beating
    beating.stop()


async def until(condition, timeout=5.0):
    deadline = time.monotonic() + timeout
    while not await condition():
        assert time.monotonic() < deadline, "it never came to be"
        await asyncio.sleep(0.01)


async def test_an_engine_is_listed_while_it_beats_and_withdrawn_when_it_stops(store, heartbeat):
    assert await store.engines() == []
    heartbeat.start()
    await until(store.engines)
    for _ in range(4):
        await asyncio.sleep(0.2)
        assert await store.engines() == [RECORD]
    heartbeat.stop()
    assert await store.engines() == []
    await asyncio.sleep(0.2)
    assert await store.engines() == []


async def test_what_an_engine_publishes_is_seen_at_once_and_stays(server, store, prefix):
    beating = Heartbeat(server.url, "e", RECORD, ttl=30, prefix=prefix)
    beating.start()
    await until(store.engines)
    await asyncio.to_thread(
        beating.publish, RECORD | {"draining": True}
    )  # the next beat is in 10 s
    assert await store.engines() == [RECORD | {"draining": True}]
    beating.stop()
    assert await store.engines() == []


@pytest.mark.parametrize("damaged", [b"\xc1", b"", b"\x07", b"\x81"])
async def test_a_damaged_record_hides_no_other_engine(store, raw, prefix, heartbeat, damaged):
    heartbeat.start()
    raw.sadd(f"{prefix}:engines", "f")
    raw.set(engine_key(prefix, "f"), damaged)
    assert await store.engines() == [RECORD, {"engine_id": "f"}]


async def test_publishing_without_a_store_is_an_error(own_server, prefix, caplog):
    caplog.set_level(logging.CRITICAL)
    beating = Heartbeat(own_server.url, "e", RECORD, ttl=0.3, prefix=prefix)
    beating.start()
    own_server.kill()
    with pytest.raises(StoreUnavailable, match="not published yet"):
        await asyncio.to_thread(beating.publish, RECORD | {"draining": True})
    beating.stop()


async def test_an_engine_that_died_expires_and_is_forgotten(store, raw, prefix):
    beating = Heartbeat(raw_url(raw), "dead", RECORD, ttl=0.2, prefix=prefix)
    beating._step()  # one beat, as of an engine that was then killed
    assert await store.engines() == [RECORD]
    await asyncio.sleep(0.25)
    assert await store.engines() == []
    assert raw.smembers(f"{prefix}:engines") == set()
    beating._client.close()


async def test_a_name_is_refused_while_an_engine_that_has_it_lives(
    server, store, prefix, heartbeat
):
    heartbeat.start()
    second = Heartbeat(server.url, "e", RECORD | {"boot_id": "second"}, ttl=0.3, prefix=prefix)
    with pytest.raises(EngineIdTaken, match="another engine that lives is registered as e"):
        await asyncio.to_thread(second.start)
    second.stop()
    assert await store.engines() == [RECORD]


async def test_an_engine_takes_its_name_over_from_one_that_was_killed(server, store, prefix):
    killed = Heartbeat(server.url, "e", RECORD, ttl=0.3, prefix=prefix)
    killed._step()
    killed._client.close()
    again = Heartbeat(server.url, "e", RECORD | {"boot_id": "second"}, ttl=0.3, prefix=prefix)
    await asyncio.to_thread(again.start)
    assert await store.engines() == [RECORD | {"boot_id": "second"}]
    again.stop()


async def test_an_engine_that_starts_while_its_store_does_waits_for_it(own_server, prefix):
    own_server.kill()
    starting = Heartbeat(own_server.url, "e", RECORD, ttl=30, prefix=prefix)
    registering = asyncio.create_task(asyncio.to_thread(starting.start))
    await asyncio.sleep(0.2)
    own_server.start()
    await registering
    async with await StateStore.connect(own_server.url, prefix=prefix) as store:
        assert await store.engines() == [RECORD]
    starting.stop()


async def test_an_engine_that_lost_its_name_says_so_once_and_gets_it_when_it_is_free(
    server, store, prefix, raw, caplog
):
    """One that stood still for so long that another took its place, and then went on."""
    other = Heartbeat(server.url, "e", RECORD | {"boot_id": "second"}, ttl=30, prefix=prefix)
    first = Heartbeat(server.url, "e", RECORD, ttl=0.1, prefix=prefix)
    first.start()
    with caplog.at_level(logging.ERROR):
        raw.delete(f"{prefix}:engine:e")
        while not other._register(other._record):
            raw.delete(f"{prefix}:engine:e")
        await asyncio.sleep(0.3)
    assert caplog.text.count("engine e was silent for long") == 1
    assert [one["boot_id"] for one in await store.engines()] == ["second"]
    other._withdraw()
    other._close()

    async def back():
        return await store.engines() == [RECORD]

    await until(back)
    first.stop()
    assert await store.engines() == []


def raw_url(raw):
    return f"unix://{raw.connection_pool.connection_kwargs['path']}"


async def test_every_rank_runs_the_command_and_answers_in_order(store, listen):
    for rank in (2, 0, 1):
        listen({"add": lambda payload, rank=rank: {"sum": payload["x"] + rank}}, rank=rank)
    answers = await store.send_command("e", 3, "add", {"x": 10}, timeout=5.0)
    assert answers == [{"sum": 10}, {"sum": 11}, {"sum": 12}]


async def test_commands_sent_at_once_each_get_their_own_answer(store, listen):
    listen({"echo": lambda payload: payload})
    calls = [store.send_command("e", 1, "echo", {"n": n}, timeout=5.0) for n in range(10)]
    assert await asyncio.gather(*calls) == [[{"n": n}] for n in range(10)]


async def test_however_many_commands_wait_they_hold_one_connection(store, raw):
    calls = [
        asyncio.create_task(store.send_command(f"e{n}", 1, "status", {}, timeout=30))
        for n in range(300)
    ]

    async def all_sent():
        return len(raw.keys(f"{store._prefix}:commands:*")) == len(calls)

    await until(all_sent)
    assert raw.info("clients")["blocked_clients"] == 1
    for call in calls:
        call.cancel()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended)


@pytest.mark.parametrize(
    "wrong",
    [
        b"\xc1",
        5,
        {"rank": 0, "result": {}, "error": None},
        {"call": ["the call"], "rank": 0, "result": {}, "error": None},
        {"call": "the call", "rank": 0, "result": {}},
        {"call": "the call", "rank": 0, "error": None},
        {"call": "the call", "rank": 0, "result": {}, "error": 5},
        {"call": "the call", "rank": 9, "result": {}, "error": None},
        {"call": "the call", "rank": -1, "result": {}, "error": None},
        {"call": "the call", "rank": None, "result": {}, "error": None},
    ],
)
async def test_what_is_no_answer_disturbs_no_call(store, listen, raw, caplog, wrong):
    heard = threading.Event()
    listen({"echo": lambda payload: heard.wait(10) and payload})
    call = asyncio.create_task(store.send_command("e", 1, "echo", {"n": 1}, timeout=10))
    await asyncio.sleep(0)
    (name,) = store._commands._calls
    if isinstance(wrong, dict) and wrong.get("call") == "the call":
        wrong = wrong | {"call": name, "protocol": PROTOCOL}
    packed = wrong if isinstance(wrong, bytes) else msgpack.packb(wrong)
    raw.rpush(store._commands._replies, packed)

    async def is_read():
        return not raw.exists(store._commands._replies)

    await until(is_read)
    heard.set()
    assert await call == [{"n": 1}]
    assert "what came is no answer to a command" in caplog.text


async def test_a_listener_tells_while_it_runs_a_command(store, server, prefix):
    runs, ends = threading.Event(), threading.Event()

    def wait(_):
        runs.set()
        return {"ended": ends.wait(10)}

    listener = CommandListener(server.url, "w", 0, {"wait": wait}, prefix=prefix)
    listener.start()
    assert not listener.is_running
    call = asyncio.create_task(store.send_command("w", 1, "wait", {}, timeout=10))
    await asyncio.to_thread(runs.wait)
    assert listener.is_running
    ends.set()
    assert await call == [{"ended": True}]

    async def is_idle():
        return not listener.is_running

    await until(is_idle)
    listener.stop()


async def test_a_listener_may_run_a_few_commands_at_once_and_no_more(store, server, prefix):
    together, running, most = threading.Barrier(3), [], []

    def meet(payload):
        running.append(payload["n"])
        most.append(len(running))
        together.wait(10)
        running.remove(payload["n"])
        return payload

    listener = CommandListener(server.url, "m", 0, {"meet": meet}, prefix=prefix, at_once=3)
    listener.start()
    calls = [store.send_command("m", 1, "meet", {"n": n}, timeout=10) for n in range(9)]
    assert await asyncio.gather(*calls) == [[{"n": n}] for n in range(9)]
    assert max(most) == 3

    async def is_idle():
        return not listener.is_running

    await until(is_idle)
    listener.stop()


async def test_a_store_that_is_closed_leaves_no_command_waiting(server, prefix):
    store = await StateStore.connect(server.url, prefix=prefix)
    call = asyncio.create_task(store.send_command("e", 1, "status", {}, timeout=30))
    await asyncio.sleep(0.05)
    await store.close()
    with pytest.raises(EngineSilent, match="the store was closed"):
        await call


async def test_a_silent_engine_is_noticed_in_time(store):
    started = time.monotonic()
    with pytest.raises(EngineSilent, match="0 of 2 ranks of e answered status"):
        await store.send_command("e", 2, "status", {}, timeout=0.3)
    assert 0.25 < time.monotonic() - started < 1.0


async def test_one_silent_rank_makes_the_engine_silent_in_time(store, listen):
    listen({"status": lambda _: {}}, rank=0)
    started = time.monotonic()
    with pytest.raises(EngineSilent, match="1 of 2"):
        await store.send_command("e", 2, "status", {}, timeout=0.3)
    assert time.monotonic() - started < 1.0


async def test_a_command_may_take_longer_than_the_connections_timeout(
    server, prefix, listen, monkeypatch
):
    monkeypatch.setattr("state_store.registry.POLL", 1.0)
    listen({"slow": lambda _: time.sleep(0.6) or {"done": True}})
    async with await StateStore.connect(server.url, prefix=prefix, timeout=0.3) as store:
        assert await store.send_command("e", 1, "slow", {}, timeout=5.0) == [{"done": True}]


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (lambda _: {}["nothing"], "rank 0 failed: KeyError: 'nothing'"),
        (lambda _: {"answer": object()}, "rank 0 failed: TypeError"),
    ],
    ids=["raises", "answers what cannot be sent"],
)
async def test_a_failing_handler_is_reported_and_the_listener_goes_on(
    store, listen, handler, message
):
    listen({"bad": handler, "good": lambda _: {"fine": 1}})
    with pytest.raises(EngineFailed, match=message):
        await store.send_command("e", 1, "bad", {}, timeout=5.0)
    with pytest.raises(EngineFailed, match="unknown"):
        await store.send_command("e", 1, "unknown", {}, timeout=5.0)
    assert await store.send_command("e", 1, "good", {}, timeout=5.0) == [{"fine": 1}]


BOTH = rf"speaks protocol {PROTOCOL + 1}, and this process protocol {PROTOCOL}: nothing was done"


async def test_an_engine_of_another_protocol_runs_nothing_and_both_sides_are_named(
    store, listen, monkeypatch, caplog
):
    ran = []
    monkeypatch.setattr("state_store.registry.PROTOCOL", PROTOCOL + 1)
    listen({"x": lambda payload: ran.append(payload) or {}})
    with pytest.raises(OtherProtocol, match=f"the engine at e {BOTH}"):
        await store.send_command("e", 1, "x", {}, timeout=5.0)
    assert ran == []
    assert (
        f"who sent the command speaks protocol {PROTOCOL}, and this process protocol {PROTOCOL + 1}"
        in caplog.text
    )


async def test_a_runtime_of_another_protocol_is_refused_and_both_sides_are_named(
    store, listen, raw, prefix
):
    ran = []
    listen({"x": lambda payload: ran.append(payload) or {}})
    for spoken, named in ((PROTOCOL + 1, BOTH), (None, "no version of the protocol")):
        call = {"call": "c", "reply": f"{prefix}:reply:c"}  # the rest may be anything
        raw.rpush(
            f"{prefix}:commands:e:0", msgpack.packb(call | ({"protocol": spoken} if spoken else {}))
        )
        _, packed = await asyncio.to_thread(raw.blpop, [call["reply"]], timeout=5)
        answer = msgpack.unpackb(packed)
        assert (answer["call"], answer["protocol"], ran) == ("c", PROTOCOL, [])
        assert re.search(named, answer["error"])


async def test_a_listener_goes_on_after_a_command_that_it_cannot_read(store, listen, raw, prefix):
    listen({"good": lambda _: {"fine": 1}})
    raw.rpush(f"{prefix}:commands:e:0", b"\xc1")
    assert await store.send_command("e", 1, "good", {}, timeout=5.0) == [{"fine": 1}]


async def test_a_command_is_not_run_by_an_engine_that_comes_after_its_caller_gave_up(store, listen):
    ran = threading.Event()
    with pytest.raises(EngineSilent):
        await store.send_command("e", 1, "late", {}, timeout=0.1)
    await asyncio.sleep(0.05)
    listen({"late": lambda _: ran.set() or {}, "now": lambda _: {}})
    await store.send_command("e", 1, "now", {}, timeout=5.0)
    assert not ran.is_set()


async def test_a_patient_command_outlives_an_impatient_one_in_the_queue(store, listen):
    patient = asyncio.create_task(store.send_command("e", 1, "x", {}, timeout=5.0))
    await asyncio.sleep(0.02)
    with pytest.raises(EngineSilent):
        await store.send_command("e", 1, "x", {}, timeout=0.05)
    await asyncio.sleep(0.1)
    listen({"x": lambda _: {"ran": True}})
    assert await patient == [{"ran": True}]


async def test_engine_and_runtime_find_each_other_again_after_a_restart_of_the_store(
    own_server, prefix, listen, caplog
):
    caplog.set_level(logging.CRITICAL)
    listen({"echo": lambda payload: payload}, url=own_server.url)
    beating = Heartbeat(own_server.url, "e", RECORD, ttl=0.3, prefix=prefix)
    beating.start()
    async with await StateStore.connect(own_server.url, prefix=prefix) as store:
        await until(store.engines)
        own_server.kill()
        await asyncio.sleep(0.2)
        own_server.start()
        await asyncio.sleep(0.5)
        await until(store.engines)
        assert await store.send_command("e", 1, "echo", {"n": 1}, timeout=5.0) == [{"n": 1}]
    beating.stop()


async def test_stopping_without_a_store_is_quick_and_quiet(own_server, prefix):
    beating = Heartbeat(own_server.url, "e", RECORD, ttl=0.3, prefix=prefix)
    listener = CommandListener(own_server.url, "e", 0, {}, prefix=prefix)
    beating.start()
    listener.start()
    await asyncio.sleep(0.05)
    own_server.kill()
    started = time.monotonic()
    beating.stop()
    listener.stop()
    assert time.monotonic() - started < 2.0
