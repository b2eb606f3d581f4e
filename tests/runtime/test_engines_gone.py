"""Engines that end, or that it cannot read, as a pool sees them: by their heartbeats, their ports
and what they tell.

No model runs: what an engine says of itself and replies is put into a real store.
"""

import asyncio
import contextlib

import pytest

from engine.errors import EngineUnreachable, NoEngine
from engine.linker.progress import Work
from engine.pool import EnginePool
from state_store.embedded import EmbeddedServer
from state_store.fingerprint import Fingerprint
from state_store.protocol import PROTOCOL
from state_store.registry import Heartbeat
from state_store.store import StateStore

from .pretended import FINGERPRINT, Pretended


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("gone")) as server:
        yield server


@pytest.fixture
async def pool(server):
    async with await StateStore.connect(server.url) as store:
        pool = EnginePool(store)
        yield pool
        await pool.close()


@pytest.fixture
async def engines(server, pool):
    """Two, by id."""
    made = {name: Pretended(server.url, name) for name in ("a", "b")}
    async with asyncio.timeout(30):
        while len(await pool.records()) < len(made):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    yield made
    for one in made.values():
        with contextlib.suppress(OSError):
            await asyncio.to_thread(one.end)


def end(engines, name):
    return asyncio.to_thread(engines.pop(name).end)


async def waiting(pool, engines):
    """For a router's answer on a session, which never comes; the engines are watched."""
    forever = asyncio.Event().wait()
    answer = asyncio.create_task(pool.while_all_alive(forever, FINGERPRINT.id, "session"))
    for one in engines.values():
        await asyncio.to_thread(one.looked_at.wait)
    return answer


async def test_what_a_router_may_have_given_to_an_engine_that_ends_is_not_waited_for(pool, engines):
    answer = await waiting(pool, engines)
    await end(engines, "b")
    with pytest.raises(EngineUnreachable, match="engine b ended or hangs: it neither answers"):
        await answer


async def test_what_another_engine_is_seen_at_work_on_is_waited_for(pool, engines):
    engines["a"].work.prefill = Work(done=1024, total=4096)
    answer = await waiting(pool, engines)
    await end(engines, "b")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(answer), 3.0)
    await end(engines, "a")
    with pytest.raises(EngineUnreachable, match="engine a ended"):
        await answer


async def test_an_answer_that_comes_is_given(pool, engines):
    async def answered():
        await asyncio.sleep(1.5)  # longer than until the engines are looked at
        return "token"

    assert await pool.while_all_alive(answered(), FINGERPRINT.id, "session") == "token"


async def test_the_client_of_an_engine_that_ended_is_closed_in_time(pool, engines, monkeypatch):
    engine = await pool.named("a")
    await end(engines, "a")
    await pool.records()
    assert not engine.client.is_closed  # it may be back in a moment
    monkeypatch.setattr("engine.pool._FORGET", 0.0)
    engine.turns = 1
    await pool.records()
    assert not engine.client.is_closed
    engine.turns = 0
    await pool.records()
    assert engine.client.is_closed
    with pytest.raises(EngineUnreachable, match="has ended"):
        await engine.client.load(timeout=1.0)
    with pytest.raises(EngineUnreachable, match="has ended"):
        await engine.client.release("session")
    assert not (await pool.named("b")).client.is_closed


async def test_engines_that_end_together_are_forgotten_by_two_who_look_at_once(
    pool, engines, monkeypatch
):
    """Each finds on its list what the other one has closed meanwhile."""
    gone = [await pool.named(engine_id) for engine_id in engines]
    for engine_id in list(engines):
        await end(engines, engine_id)
    monkeypatch.setattr("engine.pool._FORGET", 0.0)
    closing, go_on = asyncio.Event(), asyncio.Event()
    close = gone[0].client.close

    async def slowly():
        closing.set()
        await go_on.wait()
        await close()

    monkeypatch.setattr(gone[0].client, "close", slowly)
    first = asyncio.create_task(pool.records())
    await closing.wait()
    assert await pool.records() == []  # who looks now closes the others
    assert all(engine.client.is_closed for engine in gone[1:])
    go_on.set()
    assert await first == []
    assert gone[0].client.is_closed


async def test_an_engine_of_another_protocol_gets_no_turns_and_both_are_named(
    pool, engines, server, caplog
):
    other = dict(engines["a"].record, engine_id="other", boot_id="other", protocol=PROTOCOL + 1)
    beat = Heartbeat(server.url, "other", other, ttl=60.0, prefix="torpor")
    beat.start()
    try:
        assert [record.engine_id for record in await pool.records()] == ["a", "b"]
        both = f"speaks protocol {PROTOCOL + 1}, and this process protocol {PROTOCOL}"
        assert f"engine other is passed over: it {both}: it gets no turns" in caplog.text
        with pytest.raises(NoEngine, match=rf"other \(it {both}"):
            await pool.usable("f" * 32)
    finally:
        await asyncio.to_thread(beat.stop)


async def test_an_engine_of_another_version_is_passed_over_and_named(pool, engines, server, caplog):
    newer = dict(engines["a"].record, engine_id="newer", boot_id="newer")
    newer["fingerprint"] = newer["fingerprint"] | {"rope": "of a later version"}
    beat = Heartbeat(server.url, "newer", newer, ttl=60.0, prefix="torpor")
    beat.start()
    async with asyncio.timeout(30):
        while "newer" not in caplog.text:
            records = await pool.records()
            assert [record.engine_id for record in records] == ["a", "b"]
    await pool.records()
    assert caplog.text.count("engine newer is passed over") == 1
    assert [engine.record.engine_id for engine in await pool.usable(FINGERPRINT.id)] == ["a", "b"]
    with pytest.raises(NoEngine, match=r"newer \(of another version\)"):
        await pool.usable("f" * 32)
    await asyncio.to_thread(beat.stop)


async def test_of_engines_of_another_format_is_said_in_what_they_differ(pool, engines):
    other = {"weights": "of another model", "tp_size": 2}
    wanted = Fingerprint.model_validate(FINGERPRINT.model_dump(mode="json") | other)
    await pool._store.remember_fingerprint(wanted)
    differing = "weights: stored of another model, engine w; tp_size: stored 2, engine 1"
    with pytest.raises(NoEngine, match=rf"a \({differing}\), b \({differing}\)\. The session"):
        await pool.usable(wanted.id)


async def test_of_engines_of_a_format_that_nobody_knows_is_said_which_they_have(pool, engines):
    with pytest.raises(NoEngine, match=rf"a \(fingerprint {FINGERPRINT.id}\)"):
        await pool.usable("f" * 32)
