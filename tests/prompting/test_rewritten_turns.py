"""A turn whose template shows earlier ones anew: all of it is there, or the head is what it was."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass

import pytest

from agent_runtime.errors import KeptTurnsRefused
from agent_runtime.turns.answers import Answers
from agent_runtime.turns.prompting import Asked
from agent_runtime.wire.messages import Message
from state_store.errors import QuotaExceeded, StoreUnavailable
from state_store.layout import ObjectRef
from state_store.quotas import Quota
from state_store.records import Session
from state_store.store import StateStore
from tests.state_store.writer import Trips

from .desk import PAGE, Desk, prompt_of

FIRST = "Hm, let me see how many letters that word has.\n</think>\nFirst."
SECOND = "Hm.\n</think>\nSecond."
KEY = "asked once"


@dataclass
class Scene:
    """A session that has thought, and is asked again. `away`: who runs the turn; `here`: who sees
    what became of it."""

    here: Desk
    away: Desk
    trips: Trips
    session: Session
    asked: Asked

    @property
    def said(self) -> list[int]:
        chat = self.here.chat
        return [*prompt_of(self.asked), *chat.encode(SECOND), chat.eos_id]

    async def turn(self):
        return await self.away.answer(self.asked, SECOND, key=KEY)

    async def is_whole(self) -> bool:
        """Whether the turn is there. If not, the head is what it was."""
        store, now = self.here.store, await self.here.store.session(self.session.id)
        if now.head == self.session.head:
            return False
        assert list(await store.tokens(now.head)) == self.said
        assert len(await store.ancestors(now.head)) == 2
        return True

    async def check(self) -> None:
        await self.here.store.recover(older_than=0)
        assert (await self.here.store.check_integrity()).problems == []


@pytest.fixture
def scene(server, objects, checkpoints):
    @contextlib.asynccontextmanager
    async def opened(*, equal: bool = False):
        """equal: a fork has been answered the same"""
        prefix = f"t{secrets.token_hex(4)}"
        async with (
            await StateStore.connect(server.url, prefix=prefix) as store,
            await StateStore.connect(server.url, prefix=prefix) as other,
        ):
            here, away = (
                Desk(one, checkpoints["super"], server.url, objects) for one in (store, other)
            )
            trips = Trips(other)
            session = await here.create()
            await here.say(session.id, "One.", FIRST)
            session = await store.session(session.id)
            if equal:
                fork = await store.fork(session.id)
                await here.say(fork.id, "Two.", SECOND)
            asked = await away.ask(session.id, Message(role="user", content="Two."))
            assert asked.before.rewriting is not None
            trips.count = 0
            yield Scene(here, away, trips, session, asked)
            trips.crash_at = None
            await away.turns.close()

    return opened


@pytest.fixture
async def scened(scene):
    async with scene() as opened:
        yield opened


@pytest.mark.parametrize("equal", [False, True])
async def test_who_dies_at_any_round_trip_leaves_a_turn_that_is_found_or_run_again(scene, equal):
    """Found by its key. equal: a fork has the same snapshots, without the key."""
    made, at, finished = set(), 0, False
    while not finished:
        at += 1
        async with scene(equal=equal) as one:
            store, records = one.here.store, one.here.turns.records
            one.trips.crash_at = ("after", at)
            with contextlib.suppress(StoreUnavailable):
                await one.turn()
            finished = one.trips.count < at
            whole = await one.is_whole()
            made.add(whole)
            now = await store.session(one.session.id)
            answers = Answers(store, records, one.here.settings)
            found = await answers.found(now, KEY, one.asked.request)
            if whole:
                head = await store.snapshot(now.head)
                assert (found.snapshot, found.parent, found.replayed) == (
                    now.head,
                    head.parent,
                    True,
                )
                assert one.said[-len(found.token_ids) :] == found.token_ids
            else:
                assert found is None
                record = await records.read(now)  # unless it died before it noted that it began
                assert record is None or record.head == now.head
            assert not finished or whole
            await one.check()
    assert made == {True, False}
    assert at > 10


async def test_a_turn_that_the_store_did_not_take_is_committed_once_when_it_is_back(scene):
    kept, at, finished = set(), 0, False
    while not finished:
        at += 1
        async with scene() as one:
            session_id, outage = one.session.id, one.away.turns.outage
            async with one.away.turns.writing(session_id) as (_, lease):
                one.trips.count, one.trips.crash_at = 0, ("after", at)
                result = await one.away.completed(one.asked, SECOND, lease)
                finished = one.trips.count < at
                whole = await one.is_whole()
                assert result.kept == bool(outage.kept(session_id))
                kept.add((result.kept, whole))
                one.trips.crash_at = None
                await outage.catch_up(await one.here.store.session(session_id), lease)
            assert await one.is_whole()
            head = (await one.here.store.session(session_id)).head
            assert outage.standing(session_id).session.head == head
            assert outage.standing(session_id).rewriting is None
            await one.check()
    # Kept and not there, kept and there all the same, and not kept.
    assert kept == {(True, False), (True, True), (False, True)}


async def test_one_that_is_kept_is_refused_when_another_writer_has_moved_the_head(scened):
    session_id, outage = scened.session.id, scened.away.turns.outage
    async with scened.away.turns.writing(session_id) as (_, lease):
        scened.trips.count, scened.trips.crash_at = 0, ("before", 1)
        assert (await scened.away.completed(scened.asked, SECOND, lease)).kept
        scened.trips.crash_at = None
    await scened.here.say(session_id, "Three.", SECOND)
    moved = await scened.here.store.session(session_id)
    async with scened.here.turns.writing(session_id) as (_, lease):
        with pytest.raises(KeptTurnsRefused):
            await outage.catch_up(moved, lease)
    assert (await scened.here.store.session(session_id)).head == moved.head


async def test_a_client_that_goes_away_at_any_round_trip_leaves_the_turn_whole_or_absent(scene):
    made, at, finished = set(), 0, False
    while not finished:
        at += 1
        async with scene() as one:
            turn = asyncio.create_task(one.turn())

            async def leave(turn=turn):
                turn.cancel()

            one.trips.between = (at, leave)
            await asyncio.wait([turn])
            finished = not turn.cancelled() and one.trips.count < at
            made.add(await one.is_whole())
            await one.check()
    assert made == {True, False}


async def test_a_full_quota_leaves_the_head_where_it_was(scened):
    store = scened.here.store
    used = (await store.usage_report("default")).tokens
    await store.set_quota("default", Quota(tokens=used + len(scened.said) // 2))
    try:
        with pytest.raises(QuotaExceeded):
            await scened.turn()
        assert not await scened.is_whole()
    finally:
        await store.set_quota("default", Quota())
    await scened.turn()
    assert await scened.is_whole()


@pytest.mark.parametrize("step", ["settle", "renew", "persist"])
async def test_an_engine_that_is_killed_at_any_step_leaves_the_turn_with_what_it_had_stored(
    scened, step
):
    engine = scened.away.engine
    engine.gone = step
    if step != "settle":  # it is asked for what it has stored once more
        engine.lags = True
    result = await scened.turn()
    assert await scened.is_whole()
    assert "before it was gone" in result.not_durable_because
    assert result.boundary == scened.asked.before.rewriting.draft.boundary > 0
    await scened.check()


@pytest.mark.parametrize("kind", ["kv", "state"])
async def test_without_what_was_stored_of_what_is_kept_the_turn_is_committed_all_the_same(
    scened, kind
):
    """From the store: the engine, which has it, stores it again."""
    draft = scened.asked.before.rewriting.draft
    lost = scened.here.engine.names.key(ObjectRef(kind, draft.boundary_hash))
    async with scened.here.store._control.guard() as client:
        assert await client.delete(lost)
    result = await scened.turn()
    assert await scened.is_whole()
    assert (await scened.here.store.snapshot(result.parent)).boundary == 0
    assert result.boundary > draft.boundary
    await scened.check()


async def test_as_many_snapshots_are_read_however_long_the_history_is(scened, monkeypatch):
    desk, store = scened.here, scened.here.store
    session = await desk.create()
    read = []
    ancestors = store.ancestors

    async def counted(*args, **options):
        found = await ancestors(*args, **options)
        read.append(len(found))
        return found

    for _ in range(6):
        with monkeypatch.context() as patch:
            patch.setattr(store, "ancestors", counted)
            asked = await desk.asked(session.id, "Tick.")
        await desk.answer(asked, SECOND)
    assert read == [1] * 5  # the first has nothing to show anew


async def test_at_an_engine_of_another_format_none_of_the_old_state_is_taken_over(scened):
    await scened.away.go_elsewhere(draft="mtp:1")
    asked = await scened.away.ask(scened.session.id, Message(role="user", content="Two."))
    assert scened.asked.before.history.boundary > 0
    assert asked.before.history.boundary == asked.before.rewriting.draft.boundary == 0
    result = await scened.away.answer(asked, SECOND)
    assert await scened.is_whole()
    head = await scened.here.store.snapshot(result.snapshot)
    assert head.fingerprint_id == scened.away.engine.record.fingerprint.id
    assert head.boundary == len(head.page_chain) * PAGE > 0
    await scened.check()
